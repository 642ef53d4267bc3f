//! The table of a sharded model.

use crate::oracle::Mlp;
use burn::module::Module;
use burn_dist::Strategy;
use burn_dist::launch::Threads;

#[test]
fn a_summary_has_the_whole_model_and_ranks_store_it_once() {
    let plain = Mlp::new(6, &burn::tensor::Device::flex());
    for strategy in [
        Strategy::ddp(),
        Strategy::zero2(),
        Strategy::fsdp(),
        Strategy::hybrid(2),
    ] {
        let summaries = Threads::new(4).run(|world| {
            let model = strategy
                .clone()
                .shard(Mlp::new(6, &world.device()), &world)?;
            world.summary(&model)
        });
        let summaries = summaries.unwrap();
        let all = summaries[0].bytes().0;
        for summary in &summaries {
            assert_eq!(summary.elements(), plain.num_params(), "{strategy}");
            assert_eq!(summary.bytes().0, 4 * plain.num_params());
        }
        let stored: usize = summaries.iter().map(|s| s.bytes().1).sum();
        let copies = 4 / summaries[0].ranks;
        assert_eq!(stored, copies * all, "{strategy}");
        // Exactly the ranks that it names store a part.
        for (at, tensor) in summaries[0].tensors.iter().enumerate() {
            for (rank, summary) in summaries.iter().enumerate() {
                let names = tensor.on.contains(&(rank % summary.ranks));
                assert_eq!(
                    summary.tensors[at].here > 0,
                    names,
                    "{strategy}, {}",
                    tensor.path
                );
            }
        }
        let text = summaries[0].to_string();
        assert_eq!(
            text.lines().count(),
            summaries[0].tensors.len() + 2,
            "{text}"
        );
        assert!(text.contains("[7, 15]"), "{text}");
    }
}

#[test]
fn a_model_that_is_not_sharded_has_no_summary() {
    let found = Threads::new(1).run(|world| world.summary(&Mlp::new(6, &world.device())));
    assert!(found.unwrap_err().to_string().contains("Strategy::shard"));
}
