//! The stress test of memory on ranks that share a GPU; over NCCL it is a part of `nccl --gpu`.

use crate::place::{cpu, gpu, ranks};
use crate::tower::{Tower, stays_right};

#[test]
fn memory_is_not_reused_before_its_last_reader_is_done() {
    let Some((kind, _alone)) = gpu() else { return };
    let whole = Tower::new(&cpu());
    ranks(2, kind)
        .run(|world| stays_right(&world, &whole))
        .unwrap_or_else(|error| panic!("{error}"));
}
