//! The global batch of a run whose number of ranks has changed since its first start.

/// The backward passes per step with which `now` ranks see as many samples as `initial` ranks did with
/// `accumulate` passes; `None` if they cannot be divided so.
pub(super) fn passes(initial: usize, accumulate: usize, now: usize) -> Option<usize> {
    let all = initial.checked_mul(accumulate)?;
    (now > 0 && all.is_multiple_of(now)).then(|| all / now)
}

/// What to say where the global batch cannot be kept; `batch` is that of one rank and pass.
pub(super) fn change(initial: usize, accumulate: usize, now: usize, batch: usize) -> String {
    let [before, after] = [initial, now].map(|ranks| ranks * accumulate * batch);
    format!(
        "the global batch changes from {before} to {after} samples: {initial} ranks with {accumulate} passes of \
         {batch} samples each cannot be divided among {now}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_keep_the_global_batch_where_they_can() {
        assert_eq!(passes(4, 1, 2), Some(2));
        assert_eq!(passes(3, 2, 2), Some(3));
        assert_eq!(passes(2, 3, 2), Some(3));
        assert_eq!(passes(2, 4, 4), Some(2));
        assert_eq!(passes(3, 1, 2), None);
        assert_eq!(passes(1, 1, 2), None);
        assert_eq!(passes(usize::MAX, 2, 2), None);
        let line = change(3, 1, 2, 8);
        assert!(line.contains("from 24 to 16 samples"), "{line}");
    }
}
