//! The outputs of a step, from all ranks to rank 0.

use crate::parts::{JoinedParts, Parts, Share};
use crate::rank_output::RankOutput;
use burn_dist::comm::{Span, SpanMut};
use burn_dist::{Result, World};

/// The output of all ranks and the number of its samples, on rank 0, without padding; nothing on the others,
/// and nothing where every rank has padding. Collective.
///
/// # Cost
/// One all-gather of 8 bytes a rank and one of the largest output.
pub(crate) fn gather<O: RankOutput>(
    world: &World,
    output: O,
    share: Share,
) -> Result<Option<(O, usize)>> {
    if world.size() == 1 {
        return Ok((share.samples > 0).then_some((output, share.samples)));
    }
    let mut parts = Parts::default();
    if share.samples > 0 {
        output.take_apart(&mut parts);
    }
    let mut packet = parts.packet(share)?;
    let mut lengths = vec![0u64; world.size()];
    let (comm, label) = (world.comm(), "outputs for the metrics".into());
    let mine = [packet.len() as u64];
    comm.all_gather(&label, Span::of(&mine), SpanMut::of(&mut lengths))?;
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    packet.resize(longest, 0);
    let mut all = vec![0u8; longest * world.size()];
    comm.all_gather(&label, Span::of(&packet), SpanMut::of(&mut all))?;
    if !world.is_chief() {
        return Ok(None);
    }
    let packets = all.chunks_exact(longest).zip(lengths);
    let packets = packets.map(|(packet, len)| &packet[..len as usize]);
    let mut parts = JoinedParts::of(packets, world.device().without_autodiff())?;
    match parts.samples() {
        0 => Ok(None),
        samples => Ok(Some((O::put_together(&mut parts)?, samples))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int, Tensor};
    use burn_dist::launch::Threads;
    use burn_train::{
        ClassificationOutput, MultiLabelClassificationOutput, RegressionOutput, SequenceOutput,
    };

    /// Rank `r` of 4 has `r + 1` samples, but rank 2 has padding.
    fn gathered<O: RankOutput>(
        output: impl Fn(usize) -> O + Sync,
        check: impl Fn(O, usize) + Sync,
    ) -> Result<()> {
        Threads::new(4).run(|world| {
            let own = output(world.rank());
            let share = Share::new(own.samples(), own.samples() as f64, world.rank() == 2)?;
            let found = gather(&world, own, share)?;
            assert_eq!(found.is_some(), world.is_chief());
            if let Some((found, samples)) = found {
                check(found, samples);
            }
            Ok(())
        })?;
        Ok(())
    }

    fn loss(rank: usize) -> Tensor<1> {
        Tensor::from_floats([rank as f32], &Device::flex())
    }

    fn floats<const D: usize>(rank: usize, shape: [usize; D]) -> Tensor<D> {
        let all =
            Tensor::<1, Int>::arange(0..shape.iter().product::<usize>() as i64, &Device::flex());
        (all.float() + 100.0 * rank as f32).reshape(shape)
    }

    /// Of ranks 0, 1 and 3.
    fn all<const D: usize>(part: impl Fn(usize) -> Tensor<D>) -> Tensor<D> {
        Tensor::cat(vec![part(0), part(1), part(3)], 0)
    }

    fn check_loss(loss: Tensor<1>) {
        let mean = (0.0 + 2.0 * 1.0 + 4.0 * 3.0) / 7.0;
        let found = loss.into_data().iter::<f32>().collect::<Vec<_>>();
        assert!(
            found.len() == 1 && (found[0] - mean).abs() < 1e-6,
            "{found:?}"
        );
    }

    #[test]
    fn rows_come_by_rank_and_padding_is_cut_off() -> Result<()> {
        let own = |rank: usize| {
            let rows = rank + 1;
            let targets = floats(rank, [rows]).int();
            ClassificationOutput::new(loss(rank), floats(rank, [rows, 3]), targets)
        };
        gathered(own, |found, samples| {
            assert_eq!(samples, 7);
            check_loss(found.loss);
            let rows = all(|rank| floats(rank, [rank + 1, 3]));
            found.output.into_data().assert_eq(&rows.into_data(), true);
            let targets = all(|rank| floats(rank, [rank + 1])).int();
            found
                .targets
                .into_data()
                .assert_eq(&targets.into_data(), true);
        })
    }

    #[test]
    fn outputs_of_burns_other_kinds_are_joined_too() -> Result<()> {
        let own = |rank: usize| {
            let values = |shift| floats(rank + shift, [rank + 1, 2]);
            RegressionOutput::new(loss(rank), values(0), values(7))
        };
        gathered(own, |found, _| {
            check_loss(found.loss);
            let rows = |shift| all(|rank| floats(rank + shift, [rank + 1, 2])).into_data();
            found.output.into_data().assert_eq(&rows(0), true);
            found.targets.into_data().assert_eq(&rows(7), true);
        })?;
        let own = |rank: usize| {
            let values = |shift| floats(rank + shift, [rank + 1, 2]);
            MultiLabelClassificationOutput::new(loss(rank), values(0), values(7).int())
        };
        gathered(own, |found, _| {
            let rows = all(|rank| floats(rank + 7, [rank + 1, 2])).int();
            found.targets.into_data().assert_eq(&rows.into_data(), true);
        })?;
        for predicts in [false, true] {
            let own = |rank: usize| {
                let tokens = |shift| floats(rank + shift, [rank + 1, 5]).int();
                let logits = floats(rank, [rank + 1, 5, 3]);
                SequenceOutput::new(loss(rank), logits, predicts.then(|| tokens(3)), tokens(7))
            };
            gathered(own, |found, samples| {
                assert_eq!((samples, found.predictions.is_some()), (7, predicts));
                let logits = all(|rank| floats(rank, [rank + 1, 5, 3]));
                found
                    .logits
                    .into_data()
                    .assert_eq(&logits.into_data(), true);
                if let Some(found) = found.predictions {
                    let rows = all(|rank| floats(rank + 3, [rank + 1, 5])).int();
                    found.into_data().assert_eq(&rows.into_data(), true);
                }
            })?;
        }
        Ok(())
    }

    #[test]
    fn losses_of_samples_are_kept() -> Result<()> {
        let own = |rank: usize| {
            let rows = || floats(rank, [rank + 1, 1]);
            RegressionOutput::new(floats(rank, [rank + 1]), rows(), rows())
        };
        gathered(own, |found, _| {
            let losses = all(|rank| floats(rank, [rank + 1]));
            found.loss.into_data().assert_eq(&losses.into_data(), true);
        })
    }

    #[test]
    fn rows_of_different_widths_are_an_error() {
        let own = |rank: usize| {
            let rows = || floats(rank, [rank + 1, 2 + rank / 3]);
            RegressionOutput::new(loss(rank), rows(), rows())
        };
        let found = gathered(own, |_, _| panic!("they were joined"));
        let message = found.unwrap_err().to_string();
        assert!(message.contains("rows of [2] f32"), "{message}");
        assert!(message.contains("rows of [3] f32"), "{message}");
    }
}
