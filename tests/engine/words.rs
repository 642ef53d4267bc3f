//! What a loop says to the other ranks: reductions of numbers, values, work of rank 0.

use burn::tensor::{DType, Int, Tensor};
use burn_dist::launch::{Flags, Threads};
use burn_dist::{Error, Result, World};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error as StdError;

/// The errors of all ranks of a world.
fn errors<T: Send>(ranks: usize, f: impl Fn(&World) -> Result<T> + Sync) -> Vec<String> {
    let errors = Threads::new(ranks).run(|world| Ok(f(&world).err().map(|e| e.to_string())));
    let all: Vec<Option<String>> = errors.unwrap();
    all.into_iter().map(|error| error.unwrap()).collect()
}

#[test]
fn numbers_of_every_form_are_reduced() {
    for ranks in [1, 2, 3] {
        let n = ranks as i64;
        let last = n - 1;
        let run = |world: World| {
            let (device, r) = (world.device(), world.rank());
            let value = (
                (0.1_f64, r as f32, r),
                [r as u8; 2],
                vec![-(r as i32), 7],
                Tensor::<2>::full([2, 1], r as f64 + 0.5, &device),
                Tensor::<1, Int>::from_data([r as i32, -1], &device),
            );
            let (a, b, c, d, e) = world.sum(value.clone())?;
            assert_eq!(
                a,
                (
                    (0..n).fold(0.0, |sum, _| sum + 0.1),
                    (n * last / 2) as f32,
                    r_sum(n)
                )
            );
            assert_eq!(
                (b, c),
                ([r_sum(n) as u8; 2], vec![-(r_sum(n) as i32), 7 * n as i32])
            );
            assert_eq!((d.dims(), d.dtype()), ([2, 1], DType::F32));
            let wanted = (n * last) as f32 / 2.0 + 0.5 * n as f32;
            assert_eq!(d.into_data().try_to_vec::<f32>().unwrap(), [wanted; 2]);
            assert_eq!(
                e.into_data().iter::<i64>().collect::<Vec<_>>(),
                [r_sum(n) as i64, -n]
            );

            let (a, b, c, ..) = world.max(value.clone())?;
            assert_eq!((a.2, b, c), (last as usize, [last as u8; 2], vec![0, 7]));
            let (a, b, c, d, e) = world.min(value)?;
            assert_eq!((a, b, c), ((0.1, 0.0, 0), [0; 2], vec![-last as i32, 7]));
            assert_eq!(d.into_data().try_to_vec::<f32>().unwrap(), [0.5; 2]);
            assert_eq!(e.into_data().iter::<i64>().collect::<Vec<_>>(), [0, -1]);

            let mean = world.mean((r as f32, [1.0_f64, r as f64]))?;
            assert_eq!(mean, (last as f32 / 2.0, [1.0, last as f64 / 2.0]));
            let nan = if r == 0 { f32::NAN } else { 1.0 };
            assert!(world.max(nan)?.is_nan() && world.min(nan)?.is_nan());
            assert_eq!(world.min([u64::MAX, r as u64])?, [u64::MAX, 0]);
            assert_eq!(world.min([i64::MIN, i64::MAX])?, [i64::MIN, i64::MAX]);
            assert!(world.any(r + 1 == ranks)? && !world.any(false)?);
            assert!(world.all(true)? && !world.all(r > 0)?);
            assert!(world.sum(Vec::<f32>::new())?.is_empty());
            Ok(())
        };
        Threads::new(ranks).run(run).unwrap();
    }
}

/// The sum of all ranks' numbers.
fn r_sum(n: i64) -> usize {
    (n * (n - 1) / 2) as usize
}

#[test]
fn a_sum_is_the_same_on_every_rank_bit_for_bit() {
    let sums = Threads::new(5).run(|world| {
        let mine = (0..200).map(|i| 1.0 / (1.0 + (i * 7 + world.rank() * 13) as f64));
        Ok(world
            .sum(mine.collect::<Vec<f64>>())?
            .iter()
            .map(|x| x.to_bits())
            .collect::<Vec<_>>())
    });
    let sums = sums.unwrap();
    assert!(sums.iter().all(|rank| *rank == sums[0]));
}

#[test]
fn what_cannot_be_reduced_is_an_error_on_every_rank() {
    let of_other_lengths = errors(3, |world| world.sum(vec![1.0; 1 + world.rank() / 2]));
    assert!(
        of_other_lengths.iter().all(|e| e.contains("rank 2 runs")),
        "{of_other_lengths:?}"
    );
    let missing = errors(2, |world| world.sum(vec![1.0; world.rank()]));
    assert!(
        missing.iter().all(|e| e.contains("rank 1 runs")),
        "{missing:?}"
    );
    let too_large = errors(2, |world| world.sum((200_u8 + world.rank() as u8, 1.0)));
    assert!(
        too_large
            .iter()
            .all(|e| e.contains("a result that u8 holds, found 401")),
        "{too_large:?}"
    );
    let whole = errors(2, |world| world.mean((1.0, world.rank())));
    assert!(
        whole.iter().all(|e| e.contains("sum integers and divide")),
        "{whole:?}"
    );
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Decision {
    name: String,
    rate: Option<f32>,
    counts: BTreeMap<u32, Vec<i64>>,
}

fn decision(rank: usize) -> Decision {
    Decision {
        name: "r".repeat(3 * rank),
        rate: (rank > 0).then_some(f32::INFINITY),
        counts: (0..rank as u32).map(|r| (r, vec![-1; 1000])).collect(),
    }
}

#[test]
fn values_go_from_rank_to_rank() {
    for ranks in [1, 2, 3] {
        let run = |world: World| {
            let mine = decision(world.rank());
            for root in 0..ranks {
                assert_eq!(world.broadcast(root, &mine)?, decision(root));
            }
            let all = world.gather(&mine)?;
            assert_eq!(all, (0..ranks).map(decision).collect::<Vec<_>>());
            let made = world.from_chief(|| {
                assert!(world.is_chief());
                Ok(decision(7))
            })?;
            assert_eq!(made, decision(7));
            let wrote = world.chief(|| Ok(world.rank()))?;
            assert_eq!(wrote, world.is_chief().then_some(0));
            Ok(())
        };
        Threads::new(ranks).run(run).unwrap();
    }
}

/// A value that serde cannot write on one rank.
#[derive(Debug, Deserialize)]
struct Unwritable(bool);

impl Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(
        &self,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        if self.0 {
            return Err(serde::ser::Error::custom("no such thing"));
        }
        serializer.serialize_newtype_struct("Unwritable", &false)
    }
}

#[test]
fn what_one_rank_cannot_do_fails_on_all() {
    let on = |rank: usize| move |world: &World| Unwritable(world.rank() == rank);
    let gathered = errors(3, |world| world.gather(&on(1)(world)));
    let sent = errors(3, |world| world.broadcast(1, &on(1)(world)));
    for found in [gathered, sent] {
        assert!(
            found.iter().all(|e| e.contains("no such thing")),
            "{found:?}"
        );
        assert!(
            found[0].contains("rank 1") && found[2].contains("rank 1"),
            "{found:?}"
        );
    }
    let no_rank = errors(2, |world| world.broadcast(2, &1));
    assert!(
        no_rank
            .iter()
            .all(|e| e.contains("rank 2") || e.contains("root")),
        "{no_rank:?}"
    );
    let chief = errors(3, |world| {
        world
            .chief(|| Ok(std::fs::read("no/such/report")?))
            .map(drop)
    });
    assert!(
        chief.iter().all(|e| e.contains("No such file")),
        "{chief:?}"
    );
    assert!(chief.iter().all(|e| e.contains("words.rs:")), "{chief:?}");
    assert!(chief[2].contains("rank 0"), "{chief:?}");
}

#[test]
fn a_program_may_have_its_own_error_type() {
    type Boxed = Box<dyn StdError + Send + Sync>;
    #[derive(Debug, thiserror::Error)]
    enum Own {
        #[error("training stopped")]
        Library(#[from] Error),
        #[error("not a number: {0}")]
        Number(#[from] std::num::ParseIntError),
    }
    let launch = || burn_dist::launch(&Flags::default()).threads(3);
    let fail = |text: &'static str| {
        launch().try_run(|world| {
            let text = if world.rank() == 1 { text } else { "7" };
            let number: u32 = text.parse()?;
            Ok::<u32, Own>(world.sum(number)?)
        })
    };
    assert_eq!(fail("7").unwrap(), [21; 3]);
    let error = fail("7x").unwrap_err().to_string();
    assert_eq!(error, "rank 1: not a number: invalid digit found in string");

    let wrapped = launch().try_run(|world| {
        let size = world.size();
        world.sum(vec![1.0; 1 + world.rank() / 2])?;
        Ok::<usize, Own>(size)
    });
    assert!(
        matches!(wrapped, Err(Error::Mismatch { peer: 2, .. })),
        "{wrapped:?}"
    );

    let boxed = launch().try_run(|world| {
        if world.rank() == 2 {
            std::fs::read_to_string("no/such/data")?;
        }
        world.sum(1.0)?;
        Ok::<(), Boxed>(())
    });
    let text = boxed.unwrap_err().to_string();
    assert!(text.starts_with("rank 2: No such file"), "{text}");

    // Plain programs go on compiling with `Ok(())`, and may use `?` on these errors, too.
    let plain = launch().run(|world| {
        if world.rank() == 1 {
            let boxed: std::result::Result<(), Boxed> = Err("no more disk".into());
            boxed?;
        }
        world.comm().barrier(&"end".into())?;
        Ok(())
    });
    let text = plain.unwrap_err().to_string();
    assert!(text.starts_with("rank 1: no more disk (at "), "{text}");
    assert!(text.contains("words.rs:"), "{text}");
}
