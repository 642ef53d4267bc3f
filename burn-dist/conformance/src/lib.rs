//! The conformance suite of burn-dist's collective engines.
//!
//! It checks the contract of [`burn_dist::comm::Engine`] on any engine, inside or outside of burn-dist:
//! results, bits, groups, refused arguments, the ledger, and failures. An engine's test hands [`suite!`] a
//! function that runs ranks on the engine, and each check becomes a test. What depends on the engine's
//! options is left to its own tests: its deadline, and the loss of a process.
//!
//! `tests/outside` of this crate is an engine that uses only public items, with its test.
//!
//! ```
//! use burn_dist::Result;
//! use burn_dist::comm::{Communicator, local};
//! use burn_dist_conformance::Body;
//! use std::time::Duration;
//!
//! fn run(ranks: usize, body: Body<'_>) -> Vec<Result<()>> {
//!     std::thread::scope(|scope| {
//!         let rank = |engine| {
//!             scope.spawn(move || {
//!                 let comm = Communicator::new(engine);
//!                 let result = body(&comm);
//!                 match &result {
//!                     Ok(()) => comm.leave(),
//!                     Err(error) => comm.abort(error.clone()),
//!                 }
//!                 result
//!             })
//!         };
//!         let engines = local::ranks(ranks, 1, Duration::from_secs(60));
//!         let threads: Vec<_> = engines.into_iter().map(rank).collect();
//!         threads.into_iter().map(|t| t.join().unwrap()).collect()
//!     })
//! }
//!
//! mod my_engine {
//!     burn_dist_conformance::suite!(crate::run);
//! }
//! # burn_dist_conformance::groups::split_divides_by_color(&run);
//! ```

pub mod bits;
pub mod contract;
pub mod data;
pub mod exchange;
pub mod failures;
pub mod groups;
pub mod random;
pub mod sample;

#[doc(hidden)]
pub use half;

use burn_dist::comm::Communicator;
use burn_dist::{Error, Result};

/// What a check runs on each rank.
pub type Body<'a> = &'a (dyn Fn(&Communicator) -> Result<()> + Sync);

/// Runs ranks on the engine that is checked: a function or closure of this form is one.
///
/// A rank that returns an error must abort its world with that error, and one that returns `Ok` must
/// leave it; a panic must be an error to the other ranks.
pub trait Launch: Sync {
    /// Runs `body` on every rank and returns what they returned, in rank order.
    fn run(&self, ranks: usize, body: Body<'_>) -> Vec<Result<()>>;
}

impl<F: Fn(usize, Body<'_>) -> Vec<Result<()>> + Sync> Launch for F {
    fn run(&self, ranks: usize, body: Body<'_>) -> Vec<Result<()>> {
        self(ranks, body)
    }
}

/// World sizes of most checks: one rank, even and uneven cuts, more ranks than cores.
pub const WORLDS: [usize; 5] = [1, 2, 3, 4, 8];

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
/// programs without a test harness.
#[macro_export]
macro_rules! suite {
    (@checks $form:ident $launch:expr) => {
        $crate::suite! { @$form $launch;
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
            exchange: [
                all_to_all_exchanges_what_the_table_says,
                large_parts_arrive_whole,
                a_group_exchanges_among_its_own,
                wrong_tables_are_refused,
                a_different_table_is_an_error_on_all_ranks,
                the_ledger_counts_what_leaves_a_rank,
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
            failures: [
                different_calls_are_an_error_on_all_ranks,
                an_abort_ends_pending_collectives,
                a_rank_that_has_left_is_named,
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
                $crate::$module::$check(&$launch);
            }
        )*)*
    };
    (@table $launch:expr; $($module:ident: [$($check:ident),* $(,)?]),* $(,)?) => {
        [$($((
            stringify!($check),
            &(|| $crate::$module::$check(&$launch)) as &dyn Fn(),
        )),*),*]
    };
    (table: $launch:expr) => {
        $crate::suite! { @checks table $launch }
    };
    ($launch:expr) => {
        $crate::suite! { @checks tests $launch }
    };
}
