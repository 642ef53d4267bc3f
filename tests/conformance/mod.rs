//! What every engine must do, whatever moves its bytes.
//!
//! An engine is held to the contract of [`burn_dist::comm::Engine`] by handing [`suite!`] a way to
//! run ranks on it; each check becomes a test of the module where that stands.

pub(crate) mod bits;
pub(crate) mod contract;
pub(crate) mod data;
pub(crate) mod groups;
pub(crate) mod random;
pub(crate) mod sample;

use burn_dist::comm::Communicator;
use burn_dist::{Error, Result};

/// What a rank does.
pub(crate) type Body<'a> = &'a (dyn Fn(&Communicator) -> Result<()> + Sync);

/// A way to run ranks: so many of them, each with its handle on the group of all.
///
/// A rank that returns an error or panics must make the collectives of the others fail, or a
/// failed check takes as long as the engine's deadline.
pub(crate) trait Launch: Sync {
    /// Runs `body` on every rank and returns what they returned, in rank order.
    fn run(&self, ranks: usize, body: Body<'_>) -> Vec<Result<()>>;
}

impl<F: Fn(usize, Body<'_>) -> Vec<Result<()>> + Sync> Launch for F {
    fn run(&self, ranks: usize, body: Body<'_>) -> Vec<Result<()>> {
        self(ranks, body)
    }
}

/// World sizes of most checks: none, even and uneven cuts, more ranks than cores.
pub(crate) const WORLDS: [usize; 5] = [1, 2, 3, 4, 8];

/// Runs `body` on `ranks` ranks, all of which must succeed.
fn on_ranks(launch: &impl Launch, ranks: usize, body: impl Fn(&Communicator) -> Result<()> + Sync) {
    for (rank, result) in launch.run(ranks, &body).into_iter().enumerate() {
        if let Err(error) = result {
            panic!("rank {rank} of {ranks}: {error}");
        }
    }
}

/// Asserts that the call was refused, and that the reason mentions each of `words`.
fn assert_refused(result: Result<()>, words: &[&str]) {
    let error = result.expect_err("this call must be refused");
    assert!(matches!(error, Error::Config { .. }), "{error}");
    let message = error.to_string();
    for word in words {
        assert!(
            message.contains(word),
            "{message:?} should mention {word:?}"
        );
    }
}

/// Makes each check a test that runs on the ranks of one launcher.
///
/// With `table:` before the launcher the checks become an array of names and closures instead, for
/// a program that is not a test of its own.
macro_rules! suite {
    (@checks $form:ident $launch:expr) => {
        $crate::conformance::suite! { @$form $launch;
            data: [
                all_gather_concatenates_in_rank_order,
                reduce_scatter_leaves_each_rank_its_chunk,
                all_reduce_gives_every_rank_the_reduction,
                broadcast_copies_the_root,
                barrier_waits_for_everybody,
                large_buffers_arrive_whole,
                a_world_of_128_ranks_works,
            ],
            bits: [
                results_repeat_bit_for_bit,
                reductions_add_in_rank_order,
                half_precision_is_rounded_once,
                a_nan_survives_and_infinities_cancel,
            ],
            groups: [
                split_divides_by_color,
                keys_order_the_new_group,
                groups_split_again,
                rows_and_columns_cover_the_world,
                a_group_of_one_talks_to_itself,
                groups_go_their_own_way_and_come_back,
            ],
            contract: [
                wrong_lengths_are_refused_before_anything_moves,
                unlike_types_are_refused,
                broken_memory_is_refused,
                the_mean_of_integers_is_refused,
                an_unknown_root_is_refused,
                threads_of_one_rank_take_turns,
                the_ledger_counts_what_a_ring_sends,
                the_ledger_remembers_the_order,
            ],
            random: [
                thousands_of_collectives_at_random_all_come_out_right,
                worlds_of_one_process_do_not_meet,
            ],
        }
    };
    (@tests $launch:expr; $($module:ident: [$($check:ident),* $(,)?]),* $(,)?) => {
        $($(
            #[test]
            fn $check() {
                $crate::conformance::$module::$check(&$launch);
            }
        )*)*
    };
    (@table $launch:expr; $($module:ident: [$($check:ident),* $(,)?]),* $(,)?) => {
        [$($((
            stringify!($check),
            &(|| $crate::conformance::$module::$check(&$launch)) as &dyn Fn(),
        )),*),*]
    };
    (table: $launch:expr) => {
        $crate::conformance::suite! { @checks table $launch }
    };
    ($launch:expr) => {
        $crate::conformance::suite! { @checks tests $launch }
    };
}
pub(crate) use suite;
