//! A rank that is killed or stopped in each phase of a run.

use super::process::Group;
use std::time::{Duration, Instant};

/// The heartbeat where a rank is stopped: longer than a busy machine delays one that is not. A killed rank is
/// detected without it, so there the heartbeat is set beyond the limit.
const HEARTBEAT: Duration = Duration::from_secs(3);
/// From the fault to the end of the last rank, beyond the heartbeat where one is stopped.
const LIMIT: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    Kill,
    Stop,
}
use Fault::{Kill, Stop};

/// A fault of one rank of a world.
#[derive(Debug, Clone, Copy)]
struct Case {
    fault: Fault,
    faulty: usize,
    world: usize,
    phase: &'static str,
    transport: &'static str,
}

impl Case {
    fn of_three(fault: Fault, faulty: usize, phase: &'static str, transport: &'static str) -> Self {
        Self {
            fault,
            faulty,
            world: 3,
            phase,
            transport,
        }
    }

    fn group(&self) -> Group {
        let Self {
            fault,
            faulty,
            world,
            phase,
            transport,
        } = self;
        let mut group = Group::new(format!(
            "{fault:?} of rank {faulty} of {world}, {phase}, {transport}"
        ));
        let heartbeat = match fault {
            Kill => 20,
            Stop => HEARTBEAT.as_secs(),
        };
        group.set("BURN_DIST_TRANSPORT", transport);
        group.set("BURN_DIST_HEARTBEAT", heartbeat);
        group.set("FAULTS_ACT", phase);
        group.set("FAULTS_FAULTY", faulty);
        group
    }

    /// Injects the fault; returns when.
    fn inject(&self, group: &Group) -> Instant {
        match self.fault {
            Kill => group.signal(self.faulty, "KILL"),
            Stop => group.signal(self.faulty, "STOP"),
        }
    }

    fn survivors(&self) -> Vec<usize> {
        (0..self.world).filter(|r| *r != self.faulty).collect()
    }

    /// Checks that all survivors end in time, and that each error names the lost rank and the same collective.
    fn expect_ends(&self, group: &mut Group, injected: Instant, place: Option<[&str; 2]>) {
        let limit = match self.fault {
            Kill => LIMIT,
            Stop => LIMIT + HEARTBEAT,
        };
        let took = group.ends(&self.survivors(), injected, limit);
        group.say(took);
        let mut places = Vec::new();
        for rank in self.survivors() {
            let error = group.error(rank);
            group.expect_code(rank, 1);
            let lost = format!("rank {} is lost: ", self.faulty);
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
        self.expect_end_of_faulty(group);
        group.gone();
    }

    /// Checks that a stopped rank that continues is told that it was lost, and ends as well.
    fn expect_end_of_faulty(&self, group: &mut Group) {
        if self.fault == Kill {
            return;
        }
        let since = group.signal(self.faulty, "CONT");
        group.make("go");
        group.ends(&[self.faulty], since, LIMIT);
        if ["exit", "goodbye"].contains(&self.phase) && self.faulty == 0 {
            // All the work is done, and whether it is told in time depends on the scheduling of threads.
            return;
        }
        group.expect_code(self.faulty, 1);
        let itself = format!("rank {} is lost: {}", self.faulty, silent());
        group.expect(&group.error(self.faulty), &[&itself]);
    }

    /// The collective in which the others wait when one rank stays in this phase.
    fn place(&self) -> Option<[&'static str; 2]> {
        match self.phase {
            "forward" => Some(["all_gather of blocks.3 #", ", step 2 ("]),
            // The first collective there, or, as the faulty one may have sent its part, the second.
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
        group.until_file(&format!("at-{}", self.faulty));
        let others = self.survivors();
        if self.phase == "exit" {
            for rank in &others {
                group.until_file(&format!("ended-at-4-{rank}"));
            }
        }
        let injected = self.inject(&group);
        if self.phase == "backward" {
            group.ends(&others[..others.len() - 1], injected, LIMIT + HEARTBEAT);
            group.make("go");
        }
        self.expect_ends(&mut group, injected, self.place());
    }
}

/// The error for a stopped rank.
fn silent() -> String {
    format!("no sign of life for {HEARTBEAT:?}")
}

/// All faults; those that stop a rank run concurrently, since they mostly wait.
fn each(run: impl Fn(Fault, usize) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        for faulty in [1, 0] {
            scope.spawn(move || run(Stop, faulty));
        }
    });
    for faulty in [1, 2, 0] {
        run(Kill, faulty);
    }
}

/// All faults of one phase.
fn all(phase: &'static str, transport: &'static str) {
    each(|fault, faulty| Case::of_three(fault, faulty, phase, transport).run());
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
    for (world, faulty, transport) in [(2, 1, "tcp"), (2, 0, "shm"), (4, 2, "shm"), (4, 0, "tcp")] {
        let case = Case::of_three(Kill, faulty, "forward", transport);
        Case { world, ..case }.run();
    }
}

#[test]
fn before_all_have_joined() {
    each(|fault, faulty| {
        let case = Case::of_three(fault, faulty, "joining", "auto");
        let mut group = case.group();
        // The last of four never comes.
        (0..3).for_each(|rank| group.rank(rank, 4));
        group.until_joined(3);
        let injected = case.inject(&group);
        case.expect_ends(&mut group, injected, None);
    });
}

/// A rank that has left is no longer waited for, except rank 0, which still serves the rendezvous.
#[test]
fn after_it_has_left() {
    for (fault, faulty) in [(Kill, 1), (Stop, 2), (Kill, 0), (Stop, 0)] {
        let case = Case::of_three(fault, faulty, "goodbye", "auto");
        let mut group = case.group();
        group.set("RUST_LOG", "burn_dist=debug");
        group.world(3);
        let done = format!("rank {faulty} is done");
        group.until("a goodbye", |group| group.all[0].text().contains(&done));
        let injected = case.inject(&group);
        if faulty == 0 {
            // Ranks that are busy notice when they next communicate.
            group.make("go");
            case.expect_ends(&mut group, injected, None);
            continue;
        }
        if fault == Kill {
            group.ends(&[faulty], injected, LIMIT);
        }
        group.make("go");
        let took = group.ends(&case.survivors(), injected, LIMIT);
        group.say(took);
        for rank in case.survivors() {
            group.expect_code(rank, 0);
        }
        if fault == Stop {
            let since = group.signal(faulty, "CONT");
            group.ends(&[faulty], since, LIMIT);
            group.expect_code(faulty, 0);
        }
        group.gone();
    }
}
