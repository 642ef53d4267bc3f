#!/usr/bin/env python3
"""Training states of a tiny ViT and a tiny BERT, written by PyTorch after some steps, and the losses of further ones.

    python scripts/make_torch_state.py --out tests/torch_state

`save` writes any model and its AdamW in the form that `burn-dist-save import` reads (docs/saves.md). The rest needs
torch and safetensors alone; the models' parameters have the names that Hugging Face's have. Each NAME.json has the
configuration, the batches, and the losses after `steps` steps, in f64.
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

WIDTH, BLOCKS, HEADS, MLP, CLASSES = 8, 2, 2, 16, 3
IMAGE, PATCH = 8, 4
VOCAB, POSITIONS, TYPES = 24, 8, 2
# A large learning rate, so that a wrong moment shows in the next loss.
ADAMW = dict(lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.05)
STEPS, FURTHER, BATCH = 5, 6, 4


def save(model, optimizer, path):
    """Writes a model and its AdamW. Parameter groups may differ in that some do not decay."""
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach().contiguous()
        for key, state in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = state.contiguous()
    groups = optimizer.param_groups
    settings = {key: groups[0][key] for key in ("betas", "eps", "amsgrad")}
    assert all(group[key] == settings[key] for group in groups for key in settings), "groups differ"
    settings["weight_decay"] = max(group["weight_decay"] for group in groups)
    assert {group["weight_decay"] for group in groups} <= {0, settings["weight_decay"]}, "groups differ"
    exempt = {id(parameter) for group in groups if not group["weight_decay"] for parameter in group["params"]}
    settings["no_decay"] = [name for name, parameter in model.named_parameters() if id(parameter) in exempt]
    save_file(tensors, path, metadata={"format": "pt", "adamw": json.dumps(settings)})


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x, mask=None):
        heads = lambda y: y.unflatten(-1, (HEADS, -1)).transpose(1, 2)
        q, k, v = heads(self.query(x)), heads(self.key(x)), heads(self.value(x))
        return nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def tree(**parts):
    """A module of parts, for the levels of names that compute nothing."""
    return nn.ModuleDict(parts)


def vit_block():
    return tree(
        layernorm_before=nn.LayerNorm(WIDTH, eps=1e-6),
        attention=tree(attention=Attention(), output=tree(dense=nn.Linear(WIDTH, WIDTH))),
        layernorm_after=nn.LayerNorm(WIDTH, eps=1e-6),
        intermediate=tree(dense=nn.Linear(WIDTH, MLP)),
        output=tree(dense=nn.Linear(MLP, WIDTH)),
    )


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        patches = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.vit = tree(
            embeddings=tree(patch_embeddings=tree(projection=patches)),
            encoder=tree(layer=nn.ModuleList(vit_block() for _ in range(BLOCKS))),
            layernorm=nn.LayerNorm(WIDTH, eps=1e-6),
        )
        embeddings = self.vit["embeddings"]
        embeddings.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        embeddings.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (IMAGE // PATCH) ** 2, WIDTH))
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, images):
        embeddings = self.vit["embeddings"]
        x = embeddings["patch_embeddings"]["projection"](images).flatten(2).transpose(1, 2)
        x = torch.cat([embeddings.cls_token.expand(len(x), -1, -1), x], 1) + embeddings.position_embeddings
        for block in self.vit["encoder"]["layer"]:
            attention = block["attention"]
            x = x + attention["output"]["dense"](attention["attention"](block["layernorm_before"](x)))
            inner = nn.functional.gelu(block["intermediate"]["dense"](block["layernorm_after"](x)))
            x = x + block["output"]["dense"](inner)
        return self.classifier(self.vit["layernorm"](x)[:, 0])

    @staticmethod
    def batch(generator):
        return {"images": torch.randn(BATCH, 3, IMAGE, IMAGE, generator=generator).double().round(decimals=2)}


def bert_block():
    norm = lambda: nn.LayerNorm(WIDTH, eps=1e-12)
    # `self` is a name that a keyword argument cannot have.
    attention = nn.ModuleDict({"self": Attention()})
    attention["output"] = tree(dense=nn.Linear(WIDTH, WIDTH), LayerNorm=norm())
    return tree(
        attention=attention,
        intermediate=tree(dense=nn.Linear(WIDTH, MLP)),
        output=tree(dense=nn.Linear(MLP, WIDTH), LayerNorm=norm()),
    )


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = tree(
            embeddings=tree(
                word_embeddings=nn.Embedding(VOCAB, WIDTH),
                position_embeddings=nn.Embedding(POSITIONS, WIDTH),
                token_type_embeddings=nn.Embedding(TYPES, WIDTH),
                LayerNorm=nn.LayerNorm(WIDTH, eps=1e-12),
            ),
            encoder=tree(layer=nn.ModuleList(bert_block() for _ in range(BLOCKS))),
            pooler=tree(dense=nn.Linear(WIDTH, WIDTH)),
        )
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids, types, attention):
        embeddings = self.bert["embeddings"]
        x = embeddings["word_embeddings"](ids) + embeddings["token_type_embeddings"](types)
        x = embeddings["LayerNorm"](x + embeddings["position_embeddings"].weight[: ids.shape[1]])
        mask = attention.bool()[:, None, None, :]
        for block in self.bert["encoder"]["layer"]:
            attended, out = block["attention"]["self"](x, mask), block["attention"]["output"]
            x = out["LayerNorm"](x + out["dense"](attended))
            inner = nn.functional.gelu(block["intermediate"]["dense"](x))
            x = block["output"]["LayerNorm"](x + block["output"]["dense"](inner))
        return self.classifier(torch.tanh(self.bert["pooler"]["dense"](x[:, 0])))

    @staticmethod
    def batch(generator):
        ids = torch.randint(1, VOCAB, (BATCH, POSITIONS), generator=generator)
        lengths = torch.randint(3, POSITIONS + 1, (BATCH, 1), generator=generator)
        places = torch.arange(POSITIONS)[None]
        attention = (places < lengths).long()
        return {"ids": ids * attention, "types": (places >= lengths // 2).long(), "attention": attention}


def run(kind, out):
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(8)
    model = kind().double()
    with torch.no_grad():
        # Biases begin at 0 and norms at 1: with all disturbed, each term is tested.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    # As it is usual for BERT, what has one dimension does not decay there.
    decays = lambda parameter: kind is Vit or parameter.dim() > 1
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if decays(p)]}]
    if kind is Bert:
        groups.append({"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False, **ADAMW)
    batches, losses = [], []
    name = kind.__name__.lower()
    for step in range(STEPS + FURTHER):
        if step == STEPS:
            save(model, optimizer, out / f"{name}.safetensors")
        batch = kind.batch(generator)
        labels = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        inputs = {key: x.double() if x.is_floating_point() else x for key, x in batch.items()}
        loss = nn.functional.cross_entropy(model(**inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= STEPS:
            flat = {key: [round(x, 2) for x in value.flatten().tolist()] for key, value in batch.items()}
            batches.append({**flat, "labels": labels.tolist()})
            losses.append(loss.item())
    config = dict(width=WIDTH, blocks=BLOCKS, heads=HEADS, mlp_width=MLP, classes=CLASSES, image_size=IMAGE,
                  patch_size=PATCH, vocab=VOCAB, positions=POSITIONS, types=TYPES)
    text = json.dumps(dict(config=config, lr=ADAMW["lr"], steps=STEPS, losses=losses, batches=batches,
                           torch=torch.__version__))
    (out / f"{name}.json").write_text(text + "\n")
    print(name, losses)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for kind in (Vit, Bert):
        run(kind, out)
