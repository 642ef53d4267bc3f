"""One rank of PyTorch's side of benches/beside_pytorch: the same models, weights, batches and steps.

Started by that bench with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT where there are several ranks. Reads
numbers of steps from standard input and answers each with a line of JSON, as ours.rs does.
"""

import json
import os
import resource
import sys
import time
import zlib

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

VOCAB = 30522


def status(field):
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def mixed(seed, index):
    """Random bits of an index: murmur3's finalizer."""
    with np.errstate(over="ignore"):
        h = np.uint32(seed) ^ (index.astype(np.uint32) * np.uint32(2654435761))
        h ^= h >> np.uint32(16)
        h *= np.uint32(0x85EBCA6B)
        h ^= h >> np.uint32(13)
        h *= np.uint32(0xC2B2AE35)
        return h ^ (h >> np.uint32(16))


def numbers(name, count, offset=0):
    return mixed(zlib.crc32(name.encode()), np.arange(count, dtype=np.uint64) + np.uint64(offset))


class Attention(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.heads, self.dropout = heads, dropout

    def forward(self, x, mask):
        batch, tokens, width = x.shape
        split = lambda y: y.view(batch, tokens, self.heads, width // self.heads).transpose(1, 2)
        y = F.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(x)), split(self.value(x)), attn_mask=mask, dropout_p=self.dropout
        )
        return self.output(y.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.linear_inner, self.linear_outer = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        return self.linear_outer(F.gelu(self.linear_inner(x)))


class VitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm_before, self.norm_after = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attention, self.mlp = Attention(width, heads, 0.0), Mlp(width, 4 * width)

    def forward(self, x):
        x = x + self.attention(self.norm_before(x), None)
        return x + self.mlp(self.norm_after(x))


class Patches(nn.Module):
    def __init__(self, width, image, patch):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (image // patch) ** 2, width))

    def forward(self, images):
        x = self.patches(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions


class Vit(nn.Module):
    def __init__(self, case):
        super().__init__()
        width = case["width"]
        self.embeddings = Patches(width, case["image"], case["patch"])
        self.blocks = nn.ModuleList(VitBlock(width, case["heads"]) for _ in range(case["blocks"]))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, case["classes"])

    def forward(self, batch):
        x = self.embeddings(batch["images"])
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x[:, 0])), batch["labels"])


class BertBlock(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.attention, self.mlp = Attention(width, heads, dropout), Mlp(width, 4 * width)
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(width, eps=1e-12) for _ in range(2))
        self.dropout = dropout

    def forward(self, x, mask):
        x = self.norm_attention(x + F.dropout(self.attention(x, mask), self.dropout))
        return self.norm_mlp(x + F.dropout(self.mlp(x), self.dropout))


class Embeddings(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.words, self.positions, self.types = (nn.Parameter(torch.zeros(n, width)) for n in (VOCAB, 512, 2))
        self.norm, self.dropout = nn.LayerNorm(width, eps=1e-12), dropout

    def forward(self, ids):
        x = F.embedding(ids, self.words) + self.types[:1] + self.positions[: ids.shape[1]]
        return F.dropout(self.norm(x), self.dropout)


class Bert(nn.Module):
    def __init__(self, case):
        super().__init__()
        width, dropout = case["width"], case["dropout"]
        self.embeddings = Embeddings(width, dropout)
        self.blocks = nn.ModuleList(BertBlock(width, case["heads"], dropout) for _ in range(case["blocks"]))

    def forward(self, batch):
        x = self.embeddings(batch["ids"])
        for block in self.blocks:
            x = block(x, batch["mask"])
        return x


class Classifier(nn.Module):
    def __init__(self, case):
        super().__init__()
        width = case["width"]
        self.bert, self.dropout = Bert(case), case["dropout"]
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, case["classes"])

    @property
    def blocks(self):
        return self.bert.blocks

    def forward(self, batch):
        pooled = torch.tanh(self.pooler(self.bert(batch)[:, 0]))
        return F.cross_entropy(self.head(F.dropout(pooled, self.dropout)), batch["labels"])


class MaskedLm(nn.Module):
    def __init__(self, case):
        super().__init__()
        width = case["width"]
        self.bert, self.transform = Bert(case), nn.Linear(width, width)
        self.norm, self.bias = nn.LayerNorm(width, eps=1e-12), nn.Parameter(torch.zeros(VOCAB))

    @property
    def blocks(self):
        return self.bert.blocks

    def forward(self, batch):
        x = self.norm(F.gelu(self.transform(self.bert(batch))))
        logits = F.linear(x, self.bert.embeddings.words, self.bias)
        return F.cross_entropy(logits.flatten(0, 1), batch["masked"].flatten(), ignore_index=-100)


def model(case):
    made = {"vit": Vit, "bert": Classifier, "masked_lm": MaskedLm}[case["model"]](case)
    linear = {id(m.weight) for m in made.modules() if isinstance(m, nn.Linear)}
    for name, parameter in made.named_parameters():
        if parameter.dim() < 2:
            nn.init.constant_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        values = (numbers(name, parameter.numel()) / 2.0**32 * 2.0 - 1.0) * 0.05
        values = torch.from_numpy(values.astype(np.float32))
        if id(parameter) in linear:
            # Drawn as [inputs, outputs].
            values = values.view(parameter.shape[1], parameter.shape[0]).T
        with torch.no_grad():
            parameter.copy_(values.reshape(parameter.shape))
    return made


def batch(case, rank):
    n = case["batch"]
    offset = rank * 1000003
    labels = torch.from_numpy((numbers("labels", n, offset) % case["classes"]).astype(np.int64))
    if case["model"] == "vit":
        shape = (n, 3, case["image"], case["image"])
        pixels = numbers("images", int(np.prod(shape)), offset) / 2.0**32 * 2.0 - 1.0
        return {"images": torch.from_numpy(pixels.astype(np.float32)).view(shape), "labels": labels}
    tokens = case["tokens"]
    ids = torch.from_numpy((numbers("ids", n * tokens, offset) % VOCAB).astype(np.int64)).view(n, tokens)
    lengths = tokens // 2 + numbers("lengths", n, offset) % (tokens // 2 + 1)
    lengths = torch.from_numpy(lengths.astype(np.int64))
    mask = torch.arange(tokens)[None] < lengths[:, None]
    masked = torch.from_numpy(numbers("masked", n * tokens, offset) % 7 == 0).view(n, tokens)
    masked = torch.where(masked & mask, ids, -100)
    return {"ids": ids, "mask": mask[:, None, None, :], "labels": labels, "masked": masked}


def rate():
    """GFLOP/s of a matrix product of a ViT's size."""
    a, b = torch.randn(2080, 192), torch.randn(192, 768)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return 2 * 2080 * 192 * 768 / min(times) / 1e9


def main():
    if sys.argv[1] == "rate":
        torch.set_num_threads(1)
        print(f"{rate():.0f}")
        return
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    if case["strategy"] != "single":
        dist.init_process_group("gloo", rank=rank, world_size=world)
    # What is imported at first use is not the training's.
    from torch.distributed.fsdp import fully_shard

    warm = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(warm.parameters(), fused=True)
    warm(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    made = model(case)
    data = batch(case, rank)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = status("VmRSS") - sum(p.numel() * p.element_size() for p in made.parameters())
    net = made
    if case["strategy"] == "ddp":
        net = nn.parallel.DistributedDataParallel(net)
    elif case["strategy"] == "fsdp":
        mesh = dist.device_mesh.init_device_mesh("cpu", (world,))
        for block in made.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(made, mesh=mesh)
    if case["compile"]:
        net = torch.compile(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=case["rate"], eps=1e-8, weight_decay=0.01, fused=True)
    def step():
        loss = net(data)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    for line in sys.stdin:
        times, losses = [], []
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(int(line)):
            start = time.perf_counter()
            losses.append(step())
            times.append(time.perf_counter() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
        answer = {
            "times": times,
            "losses": losses,
            "faults": faults,
            "peak": status("VmHWM") - before,
            "at": time.time(),
        }
        print(json.dumps(answer), flush=True)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
