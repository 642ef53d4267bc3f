#!/usr/bin/env python3
"""Low-rank adapters that Python's PEFT writes, and a check of those it is given to read.

    python adapters.py write FOLDER        writes one folder for each case below
    python adapters.py check FOLDER..      opens each and compares what its model says

The models are those in `checkpoints`. Each folder holds what PEFT's `save_pretrained` leaves there, without its
README, and `expected.safetensors`: the inputs and the `logits` that the model with its adapters makes of them.
"""
import os
import sys

import peft
import safetensors.torch as st
import torch
import transformers

from checkpoints import inputs, outputs

HERE = os.path.dirname(os.path.abspath(__file__))

# Folder: the model in `checkpoints`, its class, and the adapters.
CASES = {
    "bert_attention": ("bert_classifier", "BertForSequenceClassification",
                       dict(r=2, lora_alpha=6, target_modules=["query", "value"],
                            modules_to_save=["classifier"])),
    "vit_all": ("vit", "ViTForImageClassification",
                dict(r=3, lora_alpha=3, target_modules="all-linear", modules_to_save=["classifier"])),
}


def base(name):
    checkpoint, cls, adapters = CASES[name]
    folder = os.path.join(HERE, "checkpoints", checkpoint)
    return getattr(transformers, cls).from_pretrained(folder), adapters


def write(folder):
    for name in CASES:
        torch.manual_seed(sum(map(ord, name)))
        model, adapters = base(name)
        given = inputs(model.config)
        # Otherwise one of the factors is zeros.
        model = peft.get_peft_model(model, peft.LoraConfig(init_lora_weights=False, **adapters))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        target = os.path.join(folder, name)
        model.save_pretrained(target)
        os.remove(os.path.join(target, "README.md"))
        # Without this machine's path.
        config = os.path.join(target, "adapter_config.json")
        with open(config) as file:
            text = file.read()
        with open(config, "w") as file:
            file.write(text.replace(HERE + os.sep, ""))
        st.save_file({**given, "logits": outputs(model, given)},
                     os.path.join(target, "expected.safetensors"))


def check(folder):
    name = os.path.basename(folder)
    model, _ = base(name)
    theirs = st.load_file(os.path.join(folder, "adapter_model.safetensors"))
    model = peft.PeftModel.from_pretrained(model, folder)
    ours = peft.get_peft_model_state_dict(model)
    if set(ours) != set(theirs):
        sys.exit(f"PEFT wants other tensors in {folder}: {set(ours) ^ set(theirs)}")
    expected = st.load_file(os.path.join(folder, "expected.safetensors"))
    logits = expected.pop("logits")
    found = outputs(model, expected)
    difference = (found - logits).abs().max().item()
    if not difference < 2e-5 * max(1.0, logits.abs().max().item()):
        sys.exit(f"logits differ by {difference}")
    print(f"{name}: logits differ by {difference:.1e}")


if __name__ == "__main__":
    for folder in sys.argv[2:]:
        {"write": write, "check": check}[sys.argv[1]](folder)
