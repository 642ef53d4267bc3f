"""Times gloo's collectives as benches/transports.rs times ours: one row per operation and size.

Started by that bench, two processes of it, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set.
"""

import json
import statistics
import sys
import time

import torch
import torch.distributed as dist


def main():
    sizes, repeats, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    rows = []
    for size in sizes:
        whole = torch.ones(size // 4)
        piece = torch.ones(size // 4 // world)
        # As FSDP2 does: a rank's shard is a part of what is gathered.
        shard = whole.chunk(world)[rank]
        operations = {
            "all_gather": lambda: dist.all_gather_into_tensor(whole, shard),
            "reduce_scatter": lambda: dist.reduce_scatter_tensor(piece, whole),
            "all_reduce": lambda: dist.all_reduce(whole, op=dist.ReduceOp.MAX),
        }
        for name, run in operations.items():
            times = []
            for _ in range(repeats + 2):
                dist.barrier()
                start = time.perf_counter()
                run()
                slowest = torch.tensor([time.perf_counter() - start], dtype=torch.float64)
                dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
                times.append(float(slowest))
            times = sorted(times[2:])
            rows.append([name, size, statistics.median(times), times[len(times) // 10]])
    if rank == 0:
        with open(out, "w") as file:
            json.dump(rows, file)
    dist.destroy_process_group()


main()
