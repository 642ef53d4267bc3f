//! A rank that is killed, or stopped, in each phase of its life.

use super::process::Group;
use std::time::{Duration, Instant};

/// How long a rank may give no sign of life, where one is stopped: longer than one that is not may
/// stand still on a busy machine. A killed one is noticed without: there it is beyond the limit, and
/// nobody waits for it.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// From the fault to the end of the last rank, beyond the heartbeat where one is stopped.
const LIMIT: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Kill,
    Stop,
}
use Fault::{Kill, Stop};

/// A fault that strikes one rank of a world.
#[derive(Debug, Clone, Copy)]
struct Case {
    fault: Fault,
    guilty: usize,
    world: usize,
    phase: &'static str,
    transport: &'static str,
}

impl Case {
    fn of_three(fault: Fault, guilty: usize, phase: &'static str, transport: &'static str) -> Self {
        Self {
            fault,
            guilty,
            world: 3,
            phase,
            transport,
        }
    }

    fn group(&self) -> Group {
        let Self {
            fault,
            guilty,
            world,
            phase,
            transport,
        } = self;
        let mut group = Group::new(format!(
            "{fault:?} of rank {guilty} of {world}, {phase}, {transport}"
        ));
        let heartbeat = match fault {
            Kill => 20,
            Stop => HEARTBEAT.as_secs(),
        };
        group.set("BURN_DIST_TRANSPORT", transport);
        group.set("BURN_DIST_HEARTBEAT", heartbeat);
        group.set("FAULTS_ACT", phase);
        group.set("FAULTS_GUILTY", guilty);
        group
    }

    /// Strikes; returns when.
    fn strike(&self, group: &Group) -> Instant {
        match self.fault {
            Kill => group.signal(self.guilty, "KILL"),
            Stop => group.signal(self.guilty, "STOP"),
        }
    }

    fn survivors(&self) -> Vec<usize> {
        (0..self.world).filter(|r| *r != self.guilty).collect()
    }

    /// All who are left end in time, name the rank, and say where they were, all the same.
    fn expect_ends(&self, group: &mut Group, struck: Instant, place: Option<[&str; 2]>) {
        let limit = match self.fault {
            Kill => LIMIT,
            Stop => LIMIT + HEARTBEAT,
        };
        let took = group.ends(&self.survivors(), struck, limit);
        group.say(took);
        let mut places = Vec::new();
        for rank in self.survivors() {
            let error = group.error(rank);
            group.expect_code(rank, 1);
            let lost = format!("rank {} is lost: ", self.guilty);
            let why = match self.fault {
                Kill => "its process closed the connection".into(),
                Stop => silent(),
            };
            group.expect(&error, &[&lost, &why]);
            group.check(error.starts_with(&lost), || {
                format!("not the cause: {error}")
            });
            let was = format!("; rank {rank} was in ");
            match (error.split_once(&was), place) {
                (Some((_, at)), Some(place)) => {
                    group.expect(at, &place);
                    places.push(at.split(':').next().unwrap().to_owned());
                }
                (None, None) => {}
                _ => group.check(false, || format!("at another place: {error}")),
            }
        }
        places.dedup();
        group.check(places.len() <= 1 || self.phase == "backward", || {
            format!("at several places: {places:?}")
        });
        self.expect_end_of_the_guilty(group);
        group.gone();
    }

    /// A stopped rank that goes on learns that it was missed, and ends as well.
    fn expect_end_of_the_guilty(&self, group: &mut Group) {
        if self.fault == Kill {
            return;
        }
        let since = group.signal(self.guilty, "CONT");
        group.make("go");
        group.ends(&[self.guilty], since, LIMIT);
        if ["exit", "goodbye"].contains(&self.phase) && self.guilty == 0 {
            // All the work is done, and whether it hears of the others first is up to the threads.
            return;
        }
        group.expect_code(self.guilty, 1);
        let itself = format!("rank {} is lost: {}", self.guilty, silent());
        group.expect(&group.error(self.guilty), &[&itself]);
    }

    /// Where others are when one stays behind in this phase.
    fn place(&self) -> Option<[&'static str; 2]> {
        match self.phase {
            "forward" => Some(["all_gather of blocks.3 #", ", step 2 ("]),
            // The first collective there, or, as the guilty one may have sent its part, the second.
            "backward" => Some(["all_gather of blocks.", ", step 2 ("]),
            "between" => Some(["all_reduce(Sum) of metric #", ", step 3 ("]),
            _ => None,
        }
    }

    fn run(self) {
        let mut group = self.group();
        let late = self.survivors().pop().unwrap();
        if self.phase == "backward" {
            group.set("FAULTS_LATE", late);
        }
        group.world(self.world);
        group.until_file(&format!("at-{}", self.guilty));
        let others = self.survivors();
        if self.phase == "exit" {
            for rank in &others {
                group.until_file(&format!("ended-at-4-{rank}"));
            }
        }
        let struck = self.strike(&group);
        if self.phase == "backward" {
            group.ends(&others[..others.len() - 1], struck, LIMIT + HEARTBEAT);
            group.make("go");
        }
        self.expect_ends(&mut group, struck, self.place());
    }
}

/// What is said of a rank that is stopped.
fn silent() -> String {
    format!("no sign of life for {HEARTBEAT:?}")
}

/// All faults: those that stop a rank side by side, since they mostly wait.
fn each(run: impl Fn(Fault, usize) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        for guilty in [1, 0] {
            scope.spawn(move || run(Stop, guilty));
        }
    });
    for guilty in [1, 2, 0] {
        run(Kill, guilty);
    }
}

/// All faults of one phase.
fn all(phase: &'static str, transport: &'static str) {
    each(|fault, guilty| Case::of_three(fault, guilty, phase, transport).run());
}

#[test]
fn in_forward_over_tcp() {
    all("forward", "tcp");
}

#[test]
fn in_forward_over_shared_memory() {
    all("forward", "shm");
}

#[test]
fn in_backward_over_tcp() {
    all("backward", "tcp");
}

#[test]
fn in_backward_over_shared_memory() {
    all("backward", "shm");
}

#[test]
fn between_steps_over_tcp() {
    all("between", "tcp");
}

#[test]
fn between_steps_over_shared_memory() {
    all("between", "shm");
}

#[test]
fn while_others_leave_over_tcp() {
    all("exit", "tcp");
}

#[test]
fn while_others_leave_over_shared_memory() {
    all("exit", "shm");
}

#[test]
fn in_worlds_of_other_sizes() {
    for (world, guilty, transport) in [(2, 1, "tcp"), (2, 0, "shm"), (4, 2, "shm"), (4, 0, "tcp")] {
        let case = Case::of_three(Kill, guilty, "forward", transport);
        Case { world, ..case }.run();
    }
}

#[test]
fn before_all_have_joined() {
    each(|fault, guilty| {
        let case = Case::of_three(fault, guilty, "joining", "auto");
        let mut group = case.group();
        // The last of four never comes.
        (0..3).for_each(|rank| group.rank(rank, 4));
        group.until_joined(3);
        let struck = case.strike(&group);
        case.expect_ends(&mut group, struck, None);
    });
}

/// One that has said goodbye owes nobody anything; only rank 0 still has to tell the others.
#[test]
fn after_it_has_left() {
    for (fault, guilty) in [(Kill, 1), (Stop, 2), (Kill, 0), (Stop, 0)] {
        let case = Case::of_three(fault, guilty, "goodbye", "auto");
        let mut group = case.group();
        group.set("RUST_LOG", "burn_dist=debug");
        group.world(3);
        let done = format!("rank {guilty} is done");
        group.until("a goodbye", |group| group.all[0].text().contains(&done));
        let struck = case.strike(&group);
        if guilty == 0 {
            // Those that are busy notice at the end of their work.
            group.make("go");
            case.expect_ends(&mut group, struck, None);
            continue;
        }
        if fault == Kill {
            group.ends(&[guilty], struck, LIMIT);
        }
        group.make("go");
        let took = group.ends(&case.survivors(), struck, LIMIT);
        group.say(took);
        for rank in case.survivors() {
            group.expect_code(rank, 0);
        }
        if fault == Stop {
            let since = group.signal(guilty, "CONT");
            group.ends(&[guilty], since, LIMIT);
            group.expect_code(guilty, 0);
        }
        group.gone();
    }
}
