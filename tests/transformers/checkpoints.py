#!/usr/bin/env python3
"""Checkpoints that Python's transformers writes, and a check of those it is given to read.

    python checkpoints.py write FOLDER     writes one folder for each case below
    python checkpoints.py check FOLDER..   opens each and compares what its model says

Each folder holds what `save_pretrained` leaves there, and `expected.safetensors`: the inputs
(`pixel_values`, or `input_ids` with `token_type_ids` and `attention_mask`) and the `logits` that the
model makes of them. The weights are drawn from a seed, so that the same version writes the same files.
"""
import json
import os
import sys

import safetensors.torch as st
import torch
import transformers

VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
           image_size=8, patch_size=4, num_channels=3, num_labels=5, layer_norm_eps=1e-6,
           initializer_range=0.3)
BERT = dict(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=24, max_position_embeddings=12, type_vocab_size=2, num_labels=3,
            initializer_range=0.3)
DISTIL = dict(vocab_size=40, dim=16, n_layers=2, n_heads=2, hidden_dim=24,
              max_position_embeddings=12, num_labels=4, initializer_range=0.3)

# Folder: the class, its configuration, and how it is saved.
CASES = {
    "vit": ("ViTForImageClassification", "ViTConfig", VIT, {}),
    "bert_classifier": ("BertForSequenceClassification", "BertConfig", BERT, {}),
    # Several files and an index.
    "bert_divided": ("BertForSequenceClassification", "BertConfig", BERT,
                     {"max_shard_size": "8KB"}),
    # As files looked before 2020: LayerNorm.gamma and LayerNorm.beta.
    "bert_old_names": ("BertForSequenceClassification", "BertConfig", BERT, {"old_names": True}),
    # An encoder alone, whose names have no prefix: what a classifier is fine-tuned from.
    "bert_encoder": ("BertModel", "BertConfig", BERT, {}),
    "bert_masked_lm": ("BertForMaskedLM", "BertConfig", BERT, {}),
    "bert_half": ("BertForMaskedLM", "BertConfig", BERT, {"dtype": torch.bfloat16}),
    "distilbert_classifier": ("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL,
                              {}),
    "distilbert_masked_lm": ("DistilBertForMaskedLM", "DistilBertConfig", DISTIL, {}),
}


def inputs(config):
    if config.model_type == "vit":
        side = config.image_size
        return {"pixel_values": torch.randn(3, config.num_channels, side, side)}
    ids = torch.randint(1, config.vocab_size, (3, 9))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    mask[2, 3:] = 0
    all = {"input_ids": ids * mask, "attention_mask": mask}
    if config.model_type == "bert":
        all["token_type_ids"] = (torch.arange(9) > 4).long().expand(3, 9).contiguous() * mask
    return all


@torch.no_grad()
def outputs(model, inputs):
    model = model.eval().float()
    result = model(**inputs)
    return (result.logits if "logits" in result else result.last_hidden_state).contiguous()


def randomize(model):
    """Biases and norms are zeros and ones at the start, which hides what is mixed up."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)


def write(folder):
    for name, (cls, config, sizes, how) in CASES.items():
        how = dict(how)
        torch.manual_seed(sum(map(ord, name)))
        config = getattr(transformers, config)(**sizes)
        model = getattr(transformers, cls)(config)
        randomize(model)
        model = model.to(how.pop("dtype", torch.float32))
        old_names = how.pop("old_names", False)
        target = os.path.join(folder, name)
        model.save_pretrained(target, **how)
        if old_names:
            file = os.path.join(target, "model.safetensors")
            renamed = {k.replace("LayerNorm.weight", "LayerNorm.gamma")
                       .replace("LayerNorm.bias", "LayerNorm.beta"): v
                       for k, v in st.load_file(file).items()}
            st.save_file(renamed, file, metadata={"format": "pt"})
        given = inputs(config)
        st.save_file({**given, "logits": outputs(model, given)},
                     os.path.join(target, "expected.safetensors"))


def check(folder):
    with open(os.path.join(folder, "config.json")) as file:
        cls = getattr(transformers, json.load(file)["architectures"][0])
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    odd = {kind: sorted(map(str, found)) for kind, found in info.items() if found}
    if odd:
        sys.exit(f"transformers finds in {folder}: {odd}")
    expected = st.load_file(os.path.join(folder, "expected.safetensors"))
    logits = expected.pop("logits")
    found = outputs(model, expected)
    difference = (found - logits).abs().max().item()
    if not difference < 2e-5 * max(1.0, logits.abs().max().item()):
        sys.exit(f"logits differ by {difference}")
    print(f"{cls.__name__}: logits differ by {difference:.1e}")


if __name__ == "__main__":
    for folder in sys.argv[2:]:
        {"write": write, "check": check}[sys.argv[1]](folder)
