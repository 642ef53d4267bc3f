"""PyTorch's side of `benches/saves`: FSDP2 over gloo, AdamW, torch.distributed.checkpoint."""

import json
import os
import shutil
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

folder, out, blocks, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dist.init_process_group("gloo")
rank = dist.get_rank()
torch.set_num_threads(1)
mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))


def make():
    layers = [torch.nn.Linear(width, width, bias=False) for _ in range(blocks)]
    model = torch.nn.Sequential(*layers)
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def step(model, optimizer):
    loss = model(torch.rand(4, width)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


times = {}


def timed(what, f):
    dist.barrier()
    start = time.perf_counter()
    value = f()
    slower = torch.tensor([time.perf_counter() - start])
    dist.all_reduce(slower, op=dist.ReduceOp.MAX)
    times[what] = slower.item()
    return value


def state(model, optimizer):
    weights, states = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": states}


model, optimizer = make()
steps = []
for _ in range(5):
    start = time.perf_counter()
    step(model, optimizer)
    steps.append(time.perf_counter() - start)
usual = min(steps[1:])
for name in ["first save", "save"]:
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
    # Syncs its files: sync_files is True by default.
    timed(name, lambda: dcp.save(state(model, optimizer), checkpoint_id=folder))
    step(model, optimizer)
again = folder + "-again"
# A group of its own, or the thread that saves and training would take each other's messages.
group = dist.new_group(backend="gloo")
saving = timed(
    "stall",
    lambda: dcp.async_save(state(model, optimizer), checkpoint_id=again, process_group=group),
)
more = 0.0
written = torch.zeros(1)
while not written.item():
    start = time.perf_counter()
    step(model, optimizer)
    more += time.perf_counter() - start - usual
    written[0] = float(saving.done())
    dist.all_reduce(written, op=dist.ReduceOp.MIN)
timed("wait", saving.result)
times["slower steps"] = more
model, optimizer = make()


def load():
    # FSDP's states exist after a first step; get_state_dict makes them.
    found = state(model, optimizer)
    dcp.load(found, checkpoint_id=again)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=found["model"],
        optim_state_dict=found["optimizer"],
    )


timed("load", load)
if rank == 0:
    with open(out, "w") as file:
        json.dump(times, file)
dist.barrier()
# Its own end now and then aborts in a thread of gloo's.
os._exit(0)
