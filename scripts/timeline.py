#!/usr/bin/env python3
"""Draws docs/timeline.svg: one step of a model of four blocks under DDP and under FSDP.

A schematic, not a measurement: the order of what is computed and communicated is the engine's, the
lengths are made up. Run it from the root of the repository: scripts/timeline.py > docs/timeline.svg
"""

BLOCKS = 4
FORWARD, BACKWARD, GATHER, REDUCE, STEP = 2.0, 4.0, 1.6, 2.0, 2.0
SCALE, LEFT, ROW, GAP = 19.0, 150, 30, 10
COLORS = {
    "forward": "#4e79a7",
    "backward": "#2f4b7c",
    "step": "#8c8c8c",
    "all-gather": "#59a14f",
    "reduce-scatter": "#e8891c",
    "all-reduce": "#c44e52",
}


class Lane:
    """What one stream does, in the order in which it is asked to."""

    def __init__(self):
        self.free = 0.0
        self.bars = []

    def run(self, kind, block, ready, length):
        start = max(self.free, ready)
        self.free = start + length
        self.bars.append((start, self.free, kind, block))
        return self.free


def ddp():
    compute, network = Lane(), Lane()
    for block in range(BLOCKS):
        compute.run("forward", block, 0, FORWARD)
    for block in reversed(range(BLOCKS)):
        done = compute.run("backward", block, 0, BACKWARD)
        network.run("all-reduce", block, done, 2 * REDUCE)
    end = compute.run("step", None, network.free, STEP)
    return compute, network, [(0, end, BLOCKS)]


def fsdp():
    compute, network = Lane(), Lane()
    held = []  # (time, change of the number of unsharded blocks)
    gather = lambda block, ready: network.run("all-gather", block, ready, GATHER)
    ready = gather(0, 0)
    for block in range(BLOCKS):
        start = max(compute.free, ready)
        held.append((ready - GATHER, 1))
        if block + 1 < BLOCKS:
            ready = gather(block + 1, start)  # prefetch
        done = compute.run("forward", block, start, FORWARD)
        held.append((done, -1))
    ready = gather(BLOCKS - 1, compute.free)
    for block in reversed(range(BLOCKS)):
        start = max(compute.free, ready)
        held.append((ready - GATHER, 1))
        if block > 0:
            ready = gather(block - 1, start)  # backward prefetch
        done = compute.run("backward", block, start, BACKWARD)
        held.append((done, -1))
        network.run("reduce-scatter", block, done, REDUCE)
    end = compute.run("step", None, network.free, STEP)
    steps, level, since = [], 0, 0.0
    for time, change in sorted(held):
        if time > since:
            steps.append((since, time, level))
        level, since = level + change, time
    steps.append((since, end, level))
    return compute, network, steps


def text(x, y, words, size=13, anchor="start", color="#222", weight="normal"):
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="{color}" font-weight="{weight}">{words}</text>'
    )


def panel(top, title, about, lanes, steps):
    out = [text(10, top + 14, title, 15, weight="bold"), text(75, top + 14, about)]
    for row, (name, lane) in enumerate(lanes):
        y = top + 28 + row * (ROW + GAP)
        out.append(text(10, y + ROW / 2 + 4, name))
        for start, end, kind, block in lane.bars:
            x, width = LEFT + start * SCALE, (end - start) * SCALE
            out.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width - 1:.1f}" height="{ROW}" rx="3" '
                f'fill="{COLORS[kind]}"/>'
            )
            label = "step" if block is None else str(block)
            out.append(text(x + width / 2, y + ROW / 2 + 4, label, 12, "middle", "#fff"))
    y = top + 28 + len(lanes) * (ROW + GAP)
    out.append(text(10, y + ROW / 2 + 4, "whole blocks held"))
    for start, end, level in steps:
        height = level * ROW / BLOCKS
        out.append(
            f'<rect x="{LEFT + start * SCALE:.1f}" y="{y + ROW - height:.1f}" '
            f'width="{(end - start) * SCALE:.1f}" height="{height:.1f}" fill="#b6b6b6"/>'
        )
    return out


def main():
    lanes = lambda compute, network: [("compute", compute), ("communication", network)]
    a_compute, a_network, a_steps = ddp()
    b_compute, b_network, b_steps = fsdp()
    width = LEFT + max(a_compute.free, b_compute.free) * SCALE + 15
    body = panel(
        8,
        "DDP",
        "every rank holds the whole model; gradients are all-reduced while backward goes on",
        lanes(a_compute, a_network),
        a_steps,
    )
    body += panel(
        175,
        "FSDP",
        "a rank holds its shard; each block is gathered ahead, dropped behind its forward, and gathered again",
        lanes(b_compute, b_network),
        b_steps,
    )
    x = 10
    for kind, color in COLORS.items():
        name = "optimizer step" if kind == "step" else kind
        body.append(f'<rect x="{x}" y="338" width="12" height="12" rx="2" fill="{color}"/>')
        body.append(text(x + 17, 349, name, 12))
        x += 34 + 7 * len(name)
    print(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} 362" '
        f'font-family="sans-serif" role="img" aria-label="One step under DDP and under FSDP">'
    )
    print(f'<rect width="{width:.0f}" height="362" fill="#fff"/>')
    print("\n".join(body))
    print("</svg>")


main()
