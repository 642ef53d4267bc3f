//! The places for ranks on this host, and which of them are given up.

use super::end::Ended;
use super::summary;
use crate::launch::host;
use std::collections::BTreeSet;
use std::time::Duration;

/// The places of a host's ranks that are still used, by the numbers of their ranks in the first start here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slots {
    left: Vec<usize>,
    all: usize,
    /// Whether ranks of this program have said that they had come up: those of other libraries do not.
    says_so: bool,
}

impl Slots {
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            left: (0..ranks).collect(),
            all: ranks,
            says_so: false,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.left.len()
    }

    /// Gives up those whose ranks are lost for good; returns what to say of each.
    ///
    /// The ranks of this start had numbers from `first` on. One is lost that a restart could not bring up: it
    /// ended by itself before it had joined its world and within `rejoin` of its start, or the others waited
    /// for it until `rejoin` had passed. Nothing is lost at the first start, where nothing has been before.
    pub(super) fn give_up(
        &mut self,
        first: usize,
        ends: &[Ended],
        has_come_up: impl Fn(usize) -> bool,
        rejoin: Duration,
        is_restart: bool,
    ) -> Vec<String> {
        let down: Vec<&Ended> = ends.iter().filter(|e| !has_come_up(e.rank)).collect();
        let says_so = self.says_so;
        self.says_so |= down.len() < ends.len();
        if !is_restart {
            return Vec::new();
        }
        let lost: BTreeSet<usize> = lost(ends, &down, rejoin, says_so).map(|e| e.rank).collect();
        let mut at = first..;
        self.left
            .retain(|_| at.next().is_none_or(|rank| !lost.contains(&rank)));
        let host = host::name();
        let text = |rank| format!("rank {rank} on {host} did not come up again within {rejoin:?}");
        lost.into_iter().map(text).collect()
    }

    /// The GPUs of the ranks that are left, for `CUDA_VISIBLE_DEVICES`; `visible` is its value for the
    /// launcher. `None` where nothing was given up, or ranks share GPUs.
    pub(super) fn gpus(&self, visible: Option<&str>) -> Option<String> {
        if self.left.len() == self.all {
            return None;
        }
        let all: Vec<String> = match visible {
            Some(list) => list.split(',').map(|gpu| gpu.trim().into()).collect(),
            None => (0..self.all).map(|gpu| gpu.to_string()).collect(),
        };
        let left = self.left.iter().map(|&slot| all.get(slot).cloned());
        let left: Option<Vec<String>> = left.collect();
        left.map(|gpus| gpus.join(","))
    }
}

/// Of the ranks that did not come up those that are the reason for it.
fn lost<'a>(
    ends: &'a [Ended],
    down: &'a [&Ended],
    rejoin: Duration,
    says_so: bool,
) -> impl Iterator<Item = &'a Ended> {
    let first = summary::first(ends).map(|ended| ended.rank);
    let blamed = |rank| {
        let errors = ends.iter().filter_map(|ended| ended.error.as_ref());
        errors.filter_map(|error| error.blames).any(|b| b == rank)
    };
    let is_lost = move |ended: &&Ended| match (&ended.error, ended.ours) {
        _ if ended.end.is_success() => false,
        // It was waited for, and had to be killed; perhaps only ranks of other hosts could say so.
        (None, true) => blamed(ended.rank) || says_so && ended.lived >= rejoin,
        (None, false) => ended.lived < rejoin,
        // The others fail too, because they need it, and some of them say so first.
        (Some(error), _) => !error.secondary && Some(ended.rank) == first && ended.lived < rejoin,
    };
    down.iter().copied().filter(is_lost)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::end::End;
    use super::*;
    use crate::launch::ErrorFile;

    const REJOIN: Duration = Duration::from_secs(10);

    fn ended(rank: usize, end: End, ours: bool, blames: Option<Option<usize>>) -> Ended {
        let error = blames.map(|blames| {
            let mut error = ErrorFile::new("no", blames.is_some(), rank);
            error.blames = blames;
            error
        });
        Ended {
            rank,
            pid: 1,
            end,
            ours,
            lived: Duration::from_secs(1),
            error,
        }
    }

    fn left(ends: &[Ended], up: &[usize]) -> Vec<usize> {
        let mut slots = Slots::new(3);
        let said = slots.give_up(4, ends, |rank| up.contains(&rank), REJOIN, true);
        assert_eq!(said.len(), 3 - slots.count());
        slots.left
    }

    #[test]
    fn a_rank_is_given_up_that_fails_before_it_has_joined() {
        let waits = ended(4, End::Exited(1), false, Some(Some(5)));
        let refuses = ended(5, End::Exited(3), false, None);
        let told = ended(6, End::Killed(15), true, None);
        let ends = [refuses.clone(), waits.clone(), told.clone()];
        assert_eq!(left(&ends, &[]), [0, 2]);
        assert_eq!(left(&ends, &[5]), [0, 1, 2]);
        let mut late = ends.clone();
        late[0].lived = REJOIN;
        assert_eq!(left(&late, &[]), [0, 1, 2]);
        // One that says why, such as that its GPU is gone; the others only follow.
        let says = ended(5, End::Exited(1), false, Some(None));
        assert_eq!(left(&[waits.clone(), says, told], &[]), [0, 2]);
        // One that hangs, and is killed after the others have waited for it.
        let hangs = ended(5, End::Killed(9), true, None);
        let follows = ended(6, End::Exited(1), false, Some(Some(5)));
        assert_eq!(left(&[waits, follows, hangs], &[]), [0, 2]);
        // One that hangs on a host where no other rank waits for it.
        let mut alone = ended(5, End::Killed(9), true, None);
        alone.lived = 2 * REJOIN;
        assert_eq!(left(std::slice::from_ref(&alone), &[]), [0, 1, 2]);
        let mut slots = Slots::new(3);
        slots.give_up(
            4,
            &[ended(5, End::Exited(1), false, None)],
            |_| true,
            REJOIN,
            false,
        );
        slots.give_up(4, &[alone], |_| false, REJOIN, true);
        assert_eq!(slots.left, [0, 2]);
        let well = ended(4, End::Exited(0), false, None);
        assert_eq!(left(&[well], &[]), [0, 1, 2]);
    }

    #[test]
    fn ranks_that_are_left_keep_their_gpus() {
        let mut slots = Slots::new(3);
        assert_eq!(slots.gpus(None), None);
        let killed = [ended(5, End::Killed(9), false, None)];
        assert!(
            slots
                .give_up(4, &killed, |_| false, REJOIN, false)
                .is_empty()
        );
        let said = slots.give_up(4, &killed, |_| false, REJOIN, true);
        assert!(
            said[0].starts_with("rank 5 on ") && said[0].ends_with(" within 10s"),
            "{said:?}"
        );
        assert_eq!(slots.gpus(None).as_deref(), Some("0,2"));
        assert_eq!(slots.gpus(Some("4, 5,GPU-a")).as_deref(), Some("4,GPU-a"));
        assert_eq!(slots.gpus(Some("4")), None);
        // The numbers of the ranks that are left have changed.
        slots.give_up(4, &killed, |_| false, REJOIN, true);
        assert_eq!(slots.gpus(None).as_deref(), Some("0"));
    }
}
