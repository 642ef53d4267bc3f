//! Tests of what node rank 0's launcher decides, with numbers instead of connections.

use super::*;
use proptest::prelude::*;

const REJOIN: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
const ENDING: Duration = Duration::from_secs(20);

/// A state, and the time.
struct Tested {
    state: State<usize>,
    now: Instant,
    told: Vec<Notice<usize>>,
}

fn tested(least_nodes: usize, most_nodes: usize, max_restarts: usize) -> Tested {
    let limits = Limits {
        least_nodes,
        most_nodes,
        max_restarts,
        rejoin: REJOIN,
        patience: PATIENCE,
        ending: ENDING,
    };
    let now = Instant::now();
    Tested {
        state: State::new(limits, now),
        now,
        told: Vec::new(),
    }
}

impl Tested {
    /// A launcher comes that can start so many ranks, and needs at least one.
    fn come(&mut self, node: usize, ranks: usize) -> &mut Self {
        self.state.come(node, &format!("h{node}"), node).unwrap();
        self.report(node, None, ranks)
    }

    fn report(&mut self, node: usize, succeeded: Option<bool>, ranks: usize) -> &mut Self {
        let report = Report {
            succeeded,
            ranks,
            least: 1,
            lost: Vec::new(),
        };
        self.hear(node, report)
    }

    fn hear(&mut self, node: usize, report: Report) -> &mut Self {
        let told = self.state.report(node, report, self.now);
        self.told.extend(told);
        self.after(Duration::ZERO)
    }

    fn leave(&mut self, node: usize) -> &mut Self {
        let told = self.state.leave(node, "gone", self.now);
        self.told.extend(told);
        self.after(Duration::ZERO)
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self.told.extend(self.state.decide(self.now));
        self
    }

    fn told(&mut self) -> Vec<Notice<usize>> {
        std::mem::take(&mut self.told)
    }

    /// The plan that has just been announced: node, first rank and ranks of each host, and the line.
    fn plan(&mut self) -> (Vec<(usize, usize, usize)>, Option<String>) {
        let told = self.told();
        let mut plans = told.iter().filter_map(|notice| match &notice.decision {
            Decision::Start(plan) => Some(plan),
            _ => None,
        });
        let plan = plans
            .next_back()
            .unwrap_or_else(|| panic!("no start: {told:?}"));
        let of = |host: &Host| (host.node, host.first, host.ranks);
        (plan.hosts.iter().map(of).collect(), plan.line())
    }

    /// The one error that all who are told are told.
    fn error(&mut self) -> String {
        let told = self.told();
        let mut errors = told.iter().map(|notice| match &notice.decision {
            Decision::Over(Some(error)) => error.to_string(),
            other => panic!("{other:?}"),
        });
        let first = errors.next().unwrap();
        assert!(errors.all(|error| error == first));
        first
    }
}

/// Whom a decision was told.
fn whom(told: &[Notice<usize>], decision: &Decision) -> Vec<usize> {
    assert!(
        told.iter().all(|notice| notice.decision == *decision),
        "{told:?}"
    );
    told.iter().map(|notice| notice.to).collect()
}

#[test]
fn all_hosts_start_when_the_last_has_come() {
    let mut world = tested(1, 3, 1);
    world.come(2, 1).come(0, 2);
    assert_eq!(world.told(), []);
    assert_eq!(
        world.come(1, 3).plan(),
        (vec![(0, 0, 2), (1, 2, 3), (2, 5, 1)], None)
    );
}

#[test]
fn the_first_start_goes_without_hosts_that_do_not_come() {
    let mut world = tested(2, 3, 1);
    world.come(0, 1).after(REJOIN);
    assert_eq!(world.told(), []);
    let (hosts, line) = world.come(2, 1).plan();
    assert_eq!(hosts, [(0, 0, 1), (2, 1, 1)]);
    assert_eq!(
        line.unwrap(),
        "start with 2 ranks, node rank 1 has not come"
    );

    let mut world = tested(2, 3, 1);
    let error = world.come(0, 1).after(PATIENCE).error();
    assert!(
        error.contains("node rank 1 has not come, node rank 2 has not come"),
        "{error}"
    );
    assert!(
        error.contains("1 host is left, and 2 hosts are needed"),
        "{error}"
    );
}

#[test]
fn a_restart_goes_without_a_host_that_is_not_back_in_time() {
    let mut world = tested(1, 2, 2);
    world.come(0, 2).come(1, 2).told();
    assert_eq!(whom(&world.leave(1).told(), &Decision::End), [0]);
    world.report(0, Some(false), 2).after(REJOIN / 2);
    assert_eq!(world.told(), []);
    let (hosts, line) = world.after(REJOIN / 2).plan();
    assert_eq!(hosts, [(0, 0, 2)]);
    let expected = "restart 1 of 2: 2 of 4 ranks, ranks 2,3 on h1 are not back after 10s (gone)";
    assert_eq!(line.unwrap(), expected);
    // It is back later, and takes part at the next restart.
    assert_eq!(world.come(1, 1).told(), []);
    let (hosts, line) = world.report(0, Some(false), 2).plan();
    assert_eq!(hosts, [(0, 0, 2), (1, 2, 1)]);
    let expected = "restart 2 of 2: 3 ranks instead of 2, h1 takes part with 1 rank";
    assert_eq!(line.unwrap(), expected);
    // All restarts are used up; each launcher has the error of its own ranks.
    let told = world.report(1, Some(false), 1).told();
    assert_eq!(whom(&told, &Decision::Over(None)), [0, 1]);
    assert!(world.state.is_over());
}

#[test]
fn a_host_that_is_back_in_time_takes_part_at_once() {
    let mut world = tested(1, 2, 1);
    world.come(0, 1).come(1, 1).told();
    world
        .leave(1)
        .report(0, Some(false), 1)
        .after(REJOIN / 2)
        .told();
    let (hosts, line) = world.come(1, 1).plan();
    assert_eq!(hosts, [(0, 0, 1), (1, 1, 1)]);
    assert_eq!(line.unwrap(), "restart 1 of 1: 2 of 2 ranks");
}

#[test]
fn below_the_least_number_all_end_with_one_error() {
    let mut world = tested(2, 3, 5);
    world.come(0, 1).come(1, 1).come(2, 1).told();
    world.leave(1).leave(2).report(0, Some(false), 1).told();
    let error = world.after(REJOIN).error();
    for words in [
        "rank 1 on h1 is not back after 10s",
        "1 host is left",
        "2 hosts are needed",
    ] {
        assert!(error.contains(words), "{error}");
    }
    let refusal = world.state.come(1, "h1", 1).unwrap_err();
    assert!(!refusal.again && refusal.problem.contains("ended"));
}

#[test]
fn one_host_gives_up_ranks_until_too_few_are_left() {
    let mut world = tested(1, 1, 5);
    let report = |ranks: usize, lost: &str| Report {
        succeeded: Some(false),
        ranks,
        least: 2,
        lost: vec![lost.into()],
    };
    world.come(0, 3).told();
    let (hosts, line) = world.hear(0, report(2, "rank 1 did not come up")).plan();
    assert_eq!(hosts, [(0, 0, 2)]);
    assert_eq!(
        line.unwrap(),
        "restart 1 of 5: 2 of 3 ranks, rank 1 did not come up"
    );
    let error = world.hear(0, report(1, "rank 0 did not come up")).error();
    for words in [
        "rank 0 did not come up",
        "1 rank is left, and 2 ranks are needed",
    ] {
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_host_below_its_own_least_number_leaves_the_others_to_go_on() {
    let mut world = tested(1, 2, 5);
    world.come(0, 1).come(1, 2).told();
    world.report(0, Some(false), 1).told();
    let report = Report {
        succeeded: Some(false),
        ranks: 1,
        least: 2,
        lost: vec!["rank 2 did not come up".into()],
    };
    let told = world.hear(1, report.clone()).told();
    assert_eq!(told.len(), 2);
    let out = told.iter().find(|notice| notice.to == 1).unwrap();
    let Decision::Over(Some(error)) = &out.decision else {
        panic!("{out:?}")
    };
    assert!(
        error.to_string().contains("h1 has 1 rank of at least 2"),
        "{error}"
    );
    // For node rank 0 that is the end of all.
    let mut world = tested(1, 2, 5);
    world.come(0, 2).come(1, 2).told();
    world.report(1, Some(false), 2).told();
    let error = world.hear(0, report).error();
    assert!(
        error.contains("node rank 0, the host of the rendezvous"),
        "{error}"
    );
}

#[test]
fn ranks_that_end_slowly_are_waited_for() {
    let mut world = tested(1, 2, 5);
    world.come(0, 1).come(1, 1).told();
    assert_eq!(
        whom(&world.report(0, Some(false), 1).told(), &Decision::End),
        [1]
    );
    assert_eq!(world.after(REJOIN).told(), []);
    let (hosts, _) = world.report(1, Some(false), 1).plan();
    assert_eq!(hosts, [(0, 0, 1), (1, 1, 1)]);
    world.report(0, Some(false), 1).told();
    let told = world.after(ENDING).told();
    assert_eq!(told.len(), 2);
    assert!(matches!(&told[0].decision, Decision::Over(Some(_))) && told[0].to == 1);
}

#[test]
fn the_end_is_told_when_all_have_ended_well() {
    let mut world = tested(1, 2, 5);
    world.come(0, 1).come(1, 1).told();
    assert_eq!(world.report(1, Some(true), 1).told(), []);
    assert_eq!(
        whom(&world.report(0, Some(true), 1).told(), &Decision::Finished),
        [0, 1]
    );
    // One that goes without a word when another has ended well has ended well too.
    let mut world = tested(1, 2, 5);
    world.come(0, 1).come(1, 1).told();
    world.report(0, Some(true), 1).told();
    assert_eq!(whom(&world.leave(1).told(), &Decision::Finished), [0]);
    // Ranks that had ended well start again with those that have not.
    let mut world = tested(1, 2, 5);
    world.come(0, 1).come(1, 1).told();
    world.report(0, Some(true), 1);
    assert_eq!(
        world.report(1, Some(false), 1).plan().0,
        [(0, 0, 1), (1, 1, 1)]
    );
}

#[test]
fn a_node_rank_that_is_taken_may_be_free_later() {
    let mut world = tested(1, 2, 5);
    world.come(0, 1);
    let refusal = world.state.come(0, "other", 7).unwrap_err();
    assert!(
        refusal.again && refusal.problem.contains("h0"),
        "{refusal:?}"
    );
    let refusal = world.state.come(2, "other", 7).unwrap_err();
    assert!(
        !refusal.again && refusal.problem.contains("node rank 2"),
        "{refusal:?}"
    );
}

#[derive(Debug, Clone)]
enum Step {
    Come(usize),
    Report(usize, Option<bool>, usize, usize),
    Leave(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let node = || 0usize..5;
    let step = prop_oneof![
        3 => node().prop_map(Step::Come),
        4 => (node(), any::<Option<bool>>(), 0usize..4, 1usize..4)
            .prop_map(|(node, ended, ranks, least)| Step::Report(node, ended, ranks, least)),
        1 => node().prop_map(Step::Leave),
        2 => (0u64..15).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 0..120)
}

/// Checks all that was told at once; returns the plan in it.
fn consistent(told: &[Notice<usize>], least: usize, most: usize) -> Option<Plan> {
    let mut plan = None;
    let mut started = Vec::new();
    for Notice { to, decision } in told {
        if let Decision::Start(found) = decision {
            let plan = plan.get_or_insert_with(|| found.clone());
            assert_eq!(plan, found);
            started.push(*to);
        }
    }
    let plan: Plan = plan?;
    let nodes: Vec<_> = plan.hosts.iter().map(|host| host.node).collect();
    assert_eq!(started, nodes);
    assert!(nodes.is_sorted_by(|a, b| a < b) && nodes[0] == 0);
    assert!((least..=most).contains(&nodes.len()) && nodes.iter().all(|node| *node < most));
    let ranks: Vec<_> = plan
        .hosts
        .iter()
        .flat_map(|h| h.first..h.first + h.ranks)
        .collect();
    assert!(ranks.iter().copied().eq(0..plan.world()));
    assert!(plan.hosts.iter().all(|host| host.ranks > 0));
    Some(plan)
}

proptest! {
    #[test]
    fn every_world_that_is_announced_is_consistent(
        steps in steps(), (least, most) in (1usize..4, 0usize..3), restarts in 0usize..6,
    ) {
        let most = least + most;
        let mut world = tested(least, most, restarts);
        let (mut last, mut ended): (Option<Plan>, bool) = (None, false);
        for step in steps {
            match step {
                Step::Come(node) => {
                    let _ = world.state.come(node, &format!("h{node}"), node);
                }
                Step::Report(node, succeeded, ranks, least) => {
                    let lost = Vec::new();
                    world.hear(node, Report { succeeded, ranks, least, lost });
                }
                Step::Leave(node) => {
                    world.leave(node);
                }
                Step::Wait(seconds) => {
                    world.after(Duration::from_secs(seconds));
                }
            }
            let plan = consistent(&world.told(), least, most);
            prop_assert!(!(ended && plan.is_some()), "a start after the end");
            if let Some(plan) = plan {
                let expected = last.as_ref().map_or(0, |last| last.restart + 1);
                prop_assert!(plan.restart == expected && expected <= restarts);
                prop_assert_eq!(plan.former, last.as_ref().map(Plan::world));
                let initial = last.as_ref().map_or(plan.world(), |last| last.initial);
                prop_assert_eq!(plan.initial, initial);
                last = Some(plan);
            }
            ended |= world.state.is_over();
        }
    }
}
