//! Tests of the position of a run.

use super::*;
use crate::data::Batch;
use proptest::prelude::*;

/// Samples, in an order of its own in each epoch.
fn sampler(samples: usize, batch: Batch, rank: (usize, usize)) -> DistributedSampler {
    let sampler = DistributedSampler::new(samples, batch, rank).unwrap();
    sampler.shuffled(9)
}

fn replicated(samples: usize, batch: Batch) -> Loader<Vec<usize>> {
    with(sampler(samples, batch, (0, 1)))
}

/// Batches that are the indices of their samples, without padding.
fn with(sampler: DistributedSampler) -> Loader<Vec<usize>> {
    let items: Vec<usize> = (0..sampler.len()).collect();
    let collate = |items: Vec<usize>, info: &crate::data::BatchInfo| items[..info.count].to_vec();
    Loader::with_sampler(items, sampler, collate).unwrap()
}

/// A run over 24 samples on two ranks, so many steps on its way.
fn over(batch: usize, accumulate: usize, done: usize) -> TrainLoop {
    let course = TrainLoop::new(&replicated(24, Batch::per_rank(2 * batch))).epochs(10);
    let mut course = course.accumulate(accumulate).unwrap();
    (0..done).for_each(|_| course.advance());
    course
}

/// Five batches an epoch, each a single number, two of them a step.
fn course(epochs: usize, limit: Option<usize>) -> (TrainLoop, Loader<Vec<usize>>) {
    let five: Vec<usize> = (0..5).collect();
    let data = Loader::replicated(five, Batch::per_rank(1), |items, _| items).unwrap();
    let course = TrainLoop::new(&data).epochs(epochs).limit(limit);
    (course.accumulate(2).unwrap(), data)
}

/// Every step's epoch and batches.
fn steps(mut course: TrainLoop, data: &Loader<Vec<usize>>) -> Vec<(usize, Vec<usize>)> {
    let (mut all, (done, steps)) = (Vec::new(), (course.done(), course.steps()));
    while let Some(mut batches) = course.epoch(data).unwrap() {
        while let Some(passes) = course.step(&mut batches).unwrap() {
            assert_eq!(course.steps(), steps);
            course.advance();
            all.push((course.epochs_begun(), passes.concat()));
        }
    }
    assert_eq!((course.done(), course.steps()), (done + all.len(), steps));
    course.advance();
    assert_eq!(course.done(), steps, "none is done after the last");
    all
}

#[test]
fn a_step_takes_accumulate_batches_and_the_last_of_an_epoch_may_take_fewer() {
    let (course, data) = course(2, None);
    assert_eq!(course.steps(), 6);
    let epoch = |number| [vec![0, 1], vec![2, 3], vec![4]].map(|step| (number, step));
    assert_eq!(steps(course, &data), [epoch(1), epoch(2)].concat());
}

#[test]
fn a_resumed_course_equals_the_rest_of_an_uninterrupted_one() {
    let (whole, data) = course(3, Some(8));
    let all = steps(whole.clone(), &data);
    assert_eq!(all.len(), 8);
    for done in 0..=8 {
        let mut before = whole.clone();
        (0..done).for_each(|_| before.advance());
        let mut rest = whole.clone();
        rest.resume(&before.progress()).unwrap();
        assert_eq!(rest.done(), done);
        assert_eq!(steps(rest, &data), all[done..], "after {done}");
    }
}

/// One of the runs that take turns on an epoch's samples.
#[derive(Debug, Clone)]
struct Part {
    world: usize,
    batch: usize,
    accumulate: usize,
    /// Steps until it is interrupted.
    steps: usize,
}

fn part() -> impl Strategy<Value = Part> {
    (1..=8_usize, 1..5_usize, 1..4_usize, 0..6_usize).prop_map(
        |(world, batch, accumulate, steps)| Part {
            world,
            batch,
            accumulate,
            steps,
        },
    )
}

/// Samples of all ranks in the order of one device, each with its epoch, and the position at the end.
fn turn(
    samples: usize,
    (part, drop_last): (&Part, bool),
    epochs: usize,
    saved: Option<&Progress>,
) -> std::result::Result<(Vec<(usize, usize)>, Progress), TestCaseError> {
    let batch = Batch::per_rank(part.batch);
    let batch = if drop_last { batch.drop_last() } else { batch };
    let mut ranks = Vec::new();
    for rank in 0..part.world {
        let data = with(sampler(samples, batch, (rank, part.world)));
        let mut course = TrainLoop::new(&data).epochs(epochs);
        course = course.accumulate(part.accumulate).unwrap();
        if let Some(saved) = saved {
            course.resume(saved).unwrap();
            prop_assert_eq!(course.done(), saved.steps);
            // Only a rest that has no full batch is passed over.
            let same = course.progress() == *saved;
            prop_assert!(same || drop_last && course.progress().epochs == saved.epochs + 1);
        }
        // Each rank's passes, one after the other.
        let (mut passes, mut left) = (Vec::new(), part.steps);
        let total = course.steps();
        while let Some(mut batches) = course.epoch(&data).unwrap() {
            let epoch = course.progress().epochs;
            while left > 0 {
                let Some(step) = course.step(&mut batches).unwrap() else {
                    break;
                };
                passes.extend(step.into_iter().map(|pass| (epoch, pass)));
                course.advance();
                left -= 1;
            }
            if left == 0 {
                break;
            }
        }
        prop_assert_eq!(course.steps(), total);
        prop_assert!(left == 0 || course.done() == total);
        ranks.push((passes, course.progress()));
    }
    let progress = ranks[0].1.clone();
    prop_assert!(ranks.iter().all(|(_, of_rank)| *of_rank == progress));
    let mut seen = Vec::new();
    for pass in 0..ranks[0].0.len() {
        for (passes, _) in &ranks {
            let (epoch, indices) = &passes[pass];
            seen.extend(indices.iter().map(|index| (*epoch, *index)));
        }
    }
    Ok((seen, progress))
}

/// The samples of epochs on one device.
fn one_device(samples: usize, epochs: usize) -> Vec<(usize, usize)> {
    let sampler = sampler(samples, Batch::per_rank(samples), (0, 1));
    let all = (0..epochs).flat_map(|epoch| {
        let step = sampler.batch(epoch as u64, 0).unwrap();
        step.indices.into_iter().map(move |index| (epoch, index))
    });
    all.collect()
}

/// The last part goes on to the end.
fn to_the_end(mut parts: Vec<Part>) -> Vec<Part> {
    if let Some(last) = parts.last_mut() {
        last.steps = usize::MAX;
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_worlds_in_turn_see_each_sample_once_in_the_order_of_one_device(
        samples in 1..60_usize,
        epochs in 1..4_usize,
        parts in proptest::collection::vec(part(), 2..5),
    ) {
        let (mut all, mut saved) = (Vec::new(), None);
        for part in to_the_end(parts) {
            let (seen, progress) = turn(samples, (&part, false), epochs, saved.as_ref())?;
            all.extend(seen);
            // The samples seen are those there are, however small the last step of an epoch.
            prop_assert_eq!(progress.epochs * samples + progress.seen, all.len());
            saved = Some(progress);
        }
        prop_assert_eq!(all, one_device(samples, epochs));
    }

    #[test]
    fn drop_last_leaves_out_less_than_a_batch_at_the_end_of_each_epoch(
        samples in 32..90_usize,
        epochs in 1..4_usize,
        parts in proptest::collection::vec(part(), 2..5),
    ) {
        let (mut all, mut saved) = (Vec::new(), None);
        for part in to_the_end(parts) {
            let (seen, progress) = turn(samples, (&part, true), epochs, saved.as_ref())?;
            all.extend(seen);
            saved = Some(progress);
        }
        let device = one_device(samples, epochs);
        for epoch in 0..epochs {
            let of = |all: &[(usize, usize)]| -> Vec<usize> {
                let own = all.iter().filter(|(of, _)| *of == epoch);
                own.map(|(_, index)| *index).collect()
            };
            let (seen, whole) = (of(&all), of(&device));
            // The largest batch is 8 ranks with 4 samples each.
            prop_assert!(seen.len() <= samples && samples - seen.len() < 32);
            prop_assert_eq!(&seen[..], &whole[..seen.len()]);
        }
    }
}

#[test]
fn steps_are_counted_on_from_those_done() {
    // 8 of 24 samples are seen in 2 steps of 4 samples.
    let saved = over(2, 1, 2).progress();
    for (batch, accumulate, rest) in [(2, 1, 4), (1, 1, 8), (4, 1, 2), (5, 1, 2), (3, 2, 2)] {
        let mut course = over(batch, accumulate, 0);
        let whole = course.steps() / 10;
        course.resume(&saved).unwrap();
        assert_eq!(course.done(), 2, "{batch}, {accumulate}");
        let steps = 2 + rest + 9 * whole;
        assert_eq!(course.steps(), steps, "{batch}, {accumulate}");
        assert_eq!(course.progress(), saved, "{batch}, {accumulate}");
        assert_eq!(course.limit(Some(5)).steps(), 5);
    }
}

#[test]
fn what_drop_last_leaves_of_an_epoch_is_passed_over_if_it_fills_no_batch() {
    let of = |batch| TrainLoop::new(&replicated(29, Batch::global(batch).drop_last())).epochs(2);
    // 25 of 29 samples are seen, and the epoch is not over yet: 4 are left for a step of 1.
    let mut before = of(1);
    (0..25).for_each(|_| before.advance());
    let mut course = of(5);
    course.resume(&before.progress()).unwrap();
    let progress = course.progress();
    assert_eq!((progress.epochs, progress.seen, progress.steps), (1, 0, 25));
    assert_eq!((course.steps(), course.epochs_begun()), (30, 1));
}

#[test]
fn between_epochs_seed_data_and_batch_size_may_change() {
    let saved = over(2, 1, 6).progress();
    let mut course = TrainLoop::over(sampler(25, Batch::per_rank(10), (0, 1)).shuffled(3));
    course = course.epochs(10);
    course.resume(&saved).unwrap();
    assert_eq!((course.done(), course.epochs_begun()), (6, 1));
    assert_eq!(course.steps(), 6 + 9 * 3);
    assert_eq!((course.at.samples, course.at.seed), (25, Some(3)));
}

fn refused(mut course: TrainLoop, saved: &Progress) -> String {
    let before = course.progress();
    let error = course.resume(saved).unwrap_err().to_string();
    assert_eq!(course.progress(), before, "an error changes nothing");
    error
}

#[test]
fn another_order_or_other_data_within_an_epoch_is_refused() {
    let saved = over(2, 1, 2).progress();
    let of = |samples| DistributedSampler::new(samples, Batch::per_rank(4), (0, 1)).unwrap();
    for (other, message) in [
        (
            of(24).shuffled(1),
            "the seed of the data's order: expected 9, as 8 of the 24 samples of epoch 1 have been \
             seen, found 1",
        ),
        (
            of(24),
            "the seed of the data's order: expected 9, as 8 of the 24 samples of epoch 1 have been \
             seen, found none (the order of the dataset)",
        ),
        (
            of(25).shuffled(9),
            "the training data: expected 24 samples, as 8 of the 24 samples of epoch 1 have been \
             seen, found 25 samples",
        ),
    ] {
        assert_eq!(refused(TrainLoop::over(other), &saved), message);
    }
}

#[test]
fn a_save_past_the_last_step_is_refused() {
    let saved = over(2, 1, 8).progress();
    assert_eq!(
        refused(over(2, 1, 0).epochs(1), &saved),
        "the save to resume from: expected one from within this run of 1 epoch(s) (raise the epochs or \
         the limit of steps), found 1 complete epoch(s), 8 samples of the next, 8 step(s)"
    );
    let error = refused(over(2, 1, 0).limit(Some(7)), &saved);
    assert!(
        error.contains("10 epoch(s) and at most 7 step(s)"),
        "{error}"
    );
    for steps in [8, 9] {
        let mut at_its_end = over(2, 1, 0).limit(Some(steps));
        at_its_end.resume(&saved).unwrap();
        assert_eq!(at_its_end.steps(), steps);
    }
    let mut finished = over(2, 1, 0).epochs(1);
    finished.resume(&over(4, 1, 3).progress()).unwrap();
    assert_eq!((finished.done(), finished.steps()), (3, 3));
}

#[test]
fn numbers_that_no_run_can_have_saved_are_refused() {
    const MOST: usize = usize::MAX;
    for ((epochs, seen, samples, steps), words) in [
        ((0, 24, 24, 9), "fewer samples seen of an epoch than its 24"),
        ((0, 25, 24, 9), "fewer samples seen of an epoch than its 24"),
        ((0, MOST, 24, 9), "fewer samples seen"),
        ((0, 4, 24, 0), "at least one step for each epoch"),
        ((3, 0, 24, 2), "at least one step for each epoch"),
        ((MOST, 4, 24, 9), "at least one step for each epoch"),
        ((MOST, 4, 24, MOST), "a number of steps below"),
        ((0, 4, 24, MOST), "a number of steps below"),
        ((MOST, 0, 0, MOST), "raise the epochs"),
    ] {
        let text = format!(
            r#"{{"epochs":{epochs},"seen":{seen},"samples":{samples},"seed":9,"steps":{steps}}}"#
        );
        let saved: Progress = serde_json::from_str(&text).unwrap();
        let error = refused(over(2, 1, 0), &saved);
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_run_that_only_its_limit_ends_can_resume() {
    let mut course = over(2, 1, 0).epochs(usize::MAX);
    course.resume(&over(2, 1, 8).progress()).unwrap();
    assert_eq!(course.steps(), usize::MAX);
    assert_eq!(course.limit(Some(20)).steps(), 20);
    let mut at_once = over(usize::MAX, usize::MAX, 0);
    at_once.advance();
    assert_eq!((at_once.done(), at_once.epochs_begun()), (1, 1));
}

#[test]
fn a_run_of_0_epochs_has_0_steps() {
    let (course, data) = course(0, None);
    assert!(course.epoch(&data).unwrap().is_none());
    assert_eq!((course.steps(), course.epochs_begun()), (0, 0));
    assert!(course.accumulate(0).is_err());
}
