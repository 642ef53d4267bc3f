//! Counts of collectives: how many, of how many bytes, and in which order.
//!
//! A lost overlap or a superfluous gather changes no result, so only counting finds it. Every number
//! here is exact, and equal to the plan that a user sees.

use crate::oracle;
use crate::oracle::{Mlp, ranks};
use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::{Strategy, World};
use burn_dist_models::{BertConfig, VitConfig, bert};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Units besides the root.
const L: usize = 4;

type Order = Vec<(Op, Arc<str>)>;

fn mlp(world: &World) -> Mlp {
    oracle::cast(Mlp::new(L, &world.device()), FloatDType::F64)
}

fn input(world: &World, step: usize) -> Tensor<2> {
    let mine = oracle::rows(&oracle::batch(24, 7, step), world.rank(), world.size());
    oracle::tensor(&mine, DType::F64, &world.device())
}

fn loss(world: &World, model: &Mlp, step: usize) -> Tensor<1> {
    model.forward(input(world, step)).powi_scalar(2).mean()
}

/// Calls of each kind in one training step with clipping: gathers, reduce-scatters, all-reduces.
fn calls(strategy: Strategy, size: usize) -> Vec<[u64; 3]> {
    let step = |world: World| {
        let model = strategy
            .clone()
            .check_units(false)
            .shard(mlp(&world), &world)?;
        world.ledger().reset();
        let _ = world.backward(loss(&world, &model, 0), &model)?;
        let total = |op| world.ledger().total(op).calls;
        let counts = [Op::AllGather, Op::ReduceScatter, Op::AllReduce].map(total);
        assert_eq!(world.ledger().all().calls, counts.iter().sum::<u64>());
        Ok(counts)
    };
    ranks(size).run(step).unwrap()
}

#[test]
fn fsdp_gathers_twice_and_the_root_once() {
    let l = L as u64;
    for size in 2..=4 {
        assert_eq!(
            calls(Strategy::fsdp(), size),
            vec![[2 * l + 1, l + 1, 0]; size]
        );
    }
}

#[test]
fn zero1_and_zero2_gather_each_unit_once() {
    let l = L as u64;
    for size in 2..=4 {
        for strategy in [Strategy::zero1(), Strategy::zero2()] {
            assert_eq!(calls(strategy, size), vec![[l + 1, l + 1, 0]; size]);
        }
    }
}

#[test]
fn ddp_only_all_reduces() {
    let l = L as u64;
    for size in 2..=4 {
        assert_eq!(calls(Strategy::ddp(), size), vec![[0, 0, l + 1]; size]);
    }
}

#[test]
fn one_rank_communicates_nothing() {
    for strategy in oracle::strategies(1) {
        assert_eq!(calls(strategy, 1), [[0, 0, 0]]);
    }
}

#[test]
fn hybrid_gathers_in_groups_and_all_reduces_across() {
    let l = L as u64;
    let counts = calls(Strategy::hybrid(2), 4);
    assert_eq!(counts, vec![[2 * l + 1, l + 1, l + 1]; 4]);
}

#[test]
fn backward_reduces_only_the_given_model() {
    let step = |world: World| {
        let one = Strategy::fsdp()
            .check_units(false)
            .shard(mlp(&world), &world)?;
        let two = Strategy::fsdp()
            .check_units(false)
            .shard(mlp(&world), &world)?;
        world.ledger().reset();
        let both = loss(&world, &one, 0) + loss(&world, &two, 0);
        let _ = world.backward(both, &two)?;
        Ok(world.ledger().total(Op::ReduceScatter).calls as usize)
    };
    assert_eq!(ranks(2).run(step).unwrap(), [L + 1; 2]);
}

#[test]
fn clip_norm_all_reduces_one_scalar_where_parameters_are_sharded() {
    let clip = |strategy: Strategy, size| {
        let step = |world: World| {
            let model = strategy
                .clone()
                .check_units(false)
                .shard(mlp(&world), &world)?;
            let grads = world.backward(loss(&world, &model, 0), &model)?;
            world.ledger().reset();
            let _ = grads.clip_norm(1.0)?;
            let all = world.ledger().all();
            Ok((
                world.ledger().total(Op::AllReduce).calls,
                all.calls,
                all.bytes,
            ))
        };
        ranks(size).run(step).unwrap()
    };
    // Two ranks send 8 bytes each for the sum of one f64, four ranks 12.
    let (two, four) = ((1, 1, 8), (1, 1, 12));
    assert_eq!(clip(Strategy::ddp(), 2), vec![(0, 0, 0); 2]);
    for strategy in [Strategy::zero1(), Strategy::zero2(), Strategy::fsdp()] {
        assert_eq!(clip(strategy.clone(), 2), vec![two; 2]);
        assert_eq!(clip(strategy, 4), vec![four; 4]);
    }
    // Over the two ranks of a group only: replicas hold the same squares.
    assert_eq!(clip(Strategy::hybrid(2), 4), vec![two; 4]);
}

#[test]
fn accumulation_causes_the_planned_traffic() {
    for size in 2..=4 {
        let aligned = Strategy::fsdp().block_aligned(256);
        for strategy in oracle::strategies(size).into_iter().chain([aligned]) {
            for k in [1, 2, 3] {
                let step = |world: World| {
                    let model = strategy
                        .clone()
                        .check_units(false)
                        .shard(mlp(&world), &world)?;
                    world.ledger().reset();
                    let mut step = world.accumulate(&model)?;
                    for micro in 0..k {
                        step.add(loss(&world, &model, micro))?;
                    }
                    let _ = step.finish()?;
                    let plan = strategy.plan(&mlp(&world), world.size())?.traffic(k);
                    let planned = [Op::AllGather, Op::ReduceScatter, Op::AllReduce].map(|op| {
                        let row = plan.iter().find(|row| row.op == op);
                        let (calls, bytes) = row.map_or((0, 0), |row| (row.calls, row.bytes));
                        let total = world.ledger().total(op);
                        assert_eq!(
                            (total.calls as usize, total.bytes as usize),
                            (calls, bytes),
                            "{strategy} at world {size}, {k} micro-batches, {}",
                            op.name()
                        );
                        total.calls
                    });
                    assert_eq!(planned.iter().sum::<u64>(), world.ledger().all().calls);
                    Ok(())
                };
                ranks(size).run(step).unwrap();
            }
        }
    }
}

#[test]
fn evaluation_gathers_every_forward_or_once_by_strategy() {
    let gathers = |strategy: Strategy, passes: usize| {
        let evaluate = |world: World| {
            let model = strategy
                .clone()
                .check_units(false)
                .shard(mlp(&world), &world)?;
            world.ledger().reset();
            let valid = model.valid();
            for step in 0..passes {
                let _ = valid.forward(input(&world, step).inner());
            }
            assert_eq!(
                world.ledger().all().calls,
                world.ledger().total(Op::AllGather).calls
            );
            Ok(world.ledger().total(Op::AllGather).calls as usize)
        };
        ranks(2).run(evaluate).unwrap()
    };
    assert_eq!(gathers(Strategy::fsdp(), 3), [3 * (L + 1); 2]);
    // What is kept for micro-batches is not kept for an evaluation.
    let kept = Strategy::fsdp().reshard_after_backward(false);
    assert_eq!(gathers(kept, 3), [3 * (L + 1); 2]);
    assert_eq!(gathers(Strategy::zero1(), 3), [L + 1; 2]);
    assert_eq!(gathers(Strategy::zero2(), 3), [L + 1; 2]);
    assert_eq!(gathers(Strategy::ddp(), 3), [0; 2]);
}

/// The collectives of one FSDP step, on every rank.
fn fsdp_order(size: usize) -> Vec<Order> {
    let step = |world: World| {
        let model = Strategy::fsdp()
            .check_units(false)
            .shard(mlp(&world), &world)?;
        world.ledger().reset();
        let _ = world.backward(loss(&world, &model, 0), &model)?;
        Ok(world.ledger().order())
    };
    ranks(size).run(step).unwrap()
}

#[test]
fn backward_reduces_a_unit_before_gathering_two_further_back() {
    let order = fsdp_order(3).remove(0);
    let name = |block: usize| format!("blocks.{block}");
    let reduced = |unit: &str| {
        let found = |(op, name): &(Op, Arc<str>)| *op == Op::ReduceScatter && **name == *unit;
        order.iter().position(found).unwrap()
    };
    let gathered_again = |unit: &str| {
        let found = |(op, name): &(Op, Arc<str>)| *op == Op::AllGather && **name == *unit;
        order.iter().rposition(found).unwrap()
    };
    for block in 2..L {
        assert!(
            reduced(&name(block)) < gathered_again(&name(block - 2)),
            "{order:?}"
        );
    }
    // And one is prefetched, so that its bytes move while the unit before it computes.
    for block in 1..L {
        assert!(
            gathered_again(&name(block - 1)) < reduced(&name(block)),
            "{order:?}"
        );
    }
    assert_eq!(reduced("root"), order.len() - 1);
}

#[test]
fn forward_gathers_in_the_order_of_the_program() {
    let order = fsdp_order(2).remove(0);
    let mut expected = vec!["root".to_string()];
    expected.extend((0..L).map(|block| format!("blocks.{block}")));
    let first: Vec<_> = order
        .iter()
        .take(L + 1)
        .map(|(_, unit)| unit.to_string())
        .collect();
    assert_eq!(first, expected);
}

#[test]
fn all_ranks_issue_the_same_order() {
    let orders = fsdp_order(4);
    assert!(
        orders.windows(2).all(|pair| pair[0] == pair[1]),
        "{orders:?}"
    );
}

#[test]
fn padding_of_vit_base_is_below_its_bound() {
    let model = VitConfig::base_16(1000).init(&Device::flex()).unwrap();
    let plan = Strategy::fsdp().plan(&model, 8).unwrap();
    assert_eq!(plan.parameters(), 86_567_656);
    assert_eq!(plan.units().len(), 13);
    assert!(plan.padding() < 0.03, "{}", plan.padding());
    let aligned = Strategy::fsdp().block_aligned(256);
    let padding = aligned.plan(&model, 8).unwrap().padding();
    assert!(padding < 0.0001, "{padding}");
}

#[test]
fn padding_of_bert_base_is_below_its_bound() {
    let model = BertConfig::base().init_classifier(2, &Device::flex());
    let plan = Strategy::fsdp().plan(&model.unwrap(), 8).unwrap();
    assert_eq!(plan.parameters(), 109_483_778);
    assert_eq!(plan.units().len(), 13);
    assert!(plan.padding() < 0.03, "{}", plan.padding());
}

/// The words of a masked language model are read twice, and are one parameter of the root all the same.
#[test]
fn a_tied_decoder_adds_no_traffic() {
    let config = BertConfig::tiny()
        .with_vocab(40)
        .with_width(16)
        .with_mlp_width(32);
    let calls = |world: World| {
        let model = config.init_masked_lm(&world.device()).unwrap();
        let model = Strategy::fsdp().check_units(false).shard(model, &world)?;
        world.ledger().reset();
        let ids = Tensor::ones([2, 5], &world.device());
        let logits = model.forward(bert::Tokens::new(ids));
        let _ = world.backward(logits.powi_scalar(2).mean(), &model)?;
        let total = |op| world.ledger().total(op).calls;
        Ok([Op::AllGather, Op::ReduceScatter, Op::AllReduce].map(total))
    };
    // Two blocks, gathered twice, and the root, gathered once; each reduced once.
    assert_eq!(ranks(2).run(calls).unwrap(), [[5, 3, 0]; 2]);
}

#[test]
fn a_plan_for_thousands_of_ranks_is_fast() {
    let model = VitConfig::base_16(1000).init(&Device::flex()).unwrap();
    let attempt = |_| {
        let start = Instant::now();
        let plan = Strategy::fsdp().plan(&model, 4096).unwrap();
        assert_eq!(plan.shard_group_size(), 4096);
        start.elapsed()
    };
    // Other load delays some of them, a slow plan all.
    let best = (0..5).map(attempt).min().unwrap();
    assert!(best < Duration::from_millis(300), "{best:?}");
}

#[test]
fn a_plan_prints_as_a_table() {
    let model = VitConfig::base_16(1000).init(&Device::flex()).unwrap();
    let text = Strategy::fsdp().plan(&model, 8).unwrap().to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 6, "{text}");
    assert!(lines[0].starts_with("fsdp over 8 rank(s): 86.57 M parameters in 13 unit(s)"));
    assert!(lines[2].trim_start().starts_with("root"));
    assert!(lines[3].contains("blocks.0 .. blocks.11 (x12)"), "{text}");
    assert!(lines[4].contains("memory per rank"));
    assert!(
        lines[5].contains("all_gather x25") && lines[5].contains("reduce_scatter x13"),
        "{text}"
    );
}
