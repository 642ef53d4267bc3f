//! A rank's share of its host's cores.
//!
//! Some launchers bind each rank to cores of its own, some let all ranks of a host run on all cores,
//! depending on options and site. So each rank tells the others on which cores it may run.

use super::Mesh;
use super::options::{hash, host};
use crate::comm::{Call, Dtype, Engine, Op, SpanMut};
use crate::error::Result;

/// 64-bit words of a set of cores: as many as `sched_getaffinity` fills in one call.
const CORE_WORDS: usize = 16;

/// On which cores this rank may run, and how many others may run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// Number of cores.
    pub own: usize,
    /// The most ranks, this one included, that may run on one of them.
    pub sharing: usize,
    /// This rank's part of them: whole cores, at least 1.
    pub share: usize,
}

impl Mesh {
    /// On which cores this thread may run and who else may; `None` where the system does not say.
    /// Collective; sends 136 bytes to every rank.
    ///
    /// # Errors
    /// Those of a collective.
    pub fn cores(&self) -> Result<Option<Cores>> {
        const WORDS_PER_RANK: usize = 1 + CORE_WORDS;
        let mine = self.rank * WORDS_PER_RANK..(self.rank + 1) * WORDS_PER_RANK;
        let mut all = vec![0u64; WORDS_PER_RANK * self.members.len()];
        // The option `host` may be any text; cores belong to one kernel.
        let kernel = hash(&host());
        all[mine.start] = kernel;
        all[mine.start + 1..mine.end].copy_from_slice(&allowed());
        let call = Call::new(Op::AllGather, &"cores".into(), Dtype::U64, WORDS_PER_RANK);
        self.all_gather(&call, SpanMut::of(&mut all))?;
        let beside = all.chunks(WORDS_PER_RANK).filter(|sent| sent[0] == kernel);
        let beside: Vec<&[u64]> = beside.map(|sent| &sent[1..]).collect();
        Ok(divide(&all[mine][1..], &beside))
    }
}

/// The cores on which this thread may run, a bit each; none where the system does not say.
fn allowed() -> [u64; CORE_WORDS] {
    let mut words = [0; CORE_WORDS];
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        let most = rustix::thread::CpuSet::MAX_CPU.min(64 * CORE_WORDS);
        for core in (0..most).filter(|core| set.is_set(*core)) {
            words[core / 64] |= 1 << (core % 64);
        }
    }
    words
}

/// One rank's part of its cores, given those of all ranks of its host, itself among them.
fn divide(own: &[u64], all: &[&[u64]]) -> Option<Cores> {
    let has = |words: &[u64], core: usize| words[core / 64] >> (core % 64) & 1 == 1;
    // A rank that does not know its cores may run on all of them.
    let may_run = |words: &&&[u64], core| has(words, core) || words.iter().all(|w| *w == 0);
    // At index `n`, the number of cores that `n` ranks share.
    let mut by_ranks = vec![0; all.len() + 1];
    for core in (0..64 * own.len()).filter(|core| has(own, *core)) {
        by_ranks[all.iter().filter(|words| may_run(words, core)).count()] += 1;
    }
    let sharing = by_ranks.iter().rposition(|cores| *cores > 0)?;
    let parts = by_ranks.iter().enumerate();
    let share: usize = parts.map(|(ranks, cores)| cores / ranks.max(1)).sum();
    Some(Cores {
        own: by_ranks.iter().sum(),
        sharing,
        share: share.max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set of cores, from and to.
    fn cores(from: usize, to: usize) -> [u64; CORE_WORDS] {
        let mut words = [0; CORE_WORDS];
        (from..to).for_each(|core| words[core / 64] |= 1 << (core % 64));
        words
    }

    fn shares(ranks: &[[u64; CORE_WORDS]]) -> Vec<(usize, usize, usize)> {
        let all: Vec<&[u64]> = ranks.iter().map(|words| &words[..]).collect();
        let divided = all.iter().filter_map(|own| divide(own, &all));
        divided.map(|c| (c.own, c.sharing, c.share)).collect()
    }

    #[test]
    fn bound_ranks_keep_their_cores_and_others_divide_them() {
        // Each bound to 16 cores of its own, as `srun -n 4 -c 16` does.
        let own = [0, 16, 32, 48].map(|from| cores(from, from + 16));
        assert_eq!(shares(&own), [(16, 1, 16); 4]);
        // Not bound.
        assert_eq!(shares(&[cores(0, 64); 4]), [(64, 4, 16); 4]);
        // Bound to a socket, as Open MPI does with more than two ranks.
        let sockets = [0, 0, 40, 40].map(|from| cores(from, from + 40));
        assert_eq!(shares(&sockets), [(40, 2, 20); 4]);
        // More ranks than cores.
        assert_eq!(shares(&[cores(0, 2); 3]), [(2, 3, 1); 3]);
        // Some cores alone and some together.
        let mixed = [cores(0, 6), cores(4, 8)];
        assert_eq!(shares(&mixed), [(6, 2, 5), (4, 2, 3)]);
        // The last ones that can be told of.
        assert_eq!(shares(&[cores(1000, 1024)]), [(24, 1, 24)]);
    }

    #[test]
    fn who_does_not_know_its_cores_may_run_on_all() {
        let nowhere = [0; CORE_WORDS];
        assert_eq!(shares(&[cores(0, 8), nowhere]), [(8, 2, 4)]);
        assert_eq!(shares(&[nowhere, nowhere]), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_on_which_cores_this_thread_may_run() {
        let words = allowed();
        let own: u32 = words.iter().map(|word| word.count_ones()).sum();
        let known = std::thread::available_parallelism().map_or(1, usize::from);
        // A limit on time may leave less of them.
        assert!(own as usize >= known, "{own} {known}");
    }
}
