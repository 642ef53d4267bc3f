#!/usr/bin/env python3
"""Golden numbers for images: Pillow's resizing, Hugging Face's preprocessing of a ViT's images, and position embeddings
at other sizes.

    python make_image_golden.py --checkpoint ../transformers/checkpoints/vit --out .

Writes `images.safetensors`, with these tensors:

    source                          uint8 [height, width, 3], which everything below is made from
    resized/<filter>/<H>x<W>        Pillow's Image.resize, uint8 [H, W, 3]
    processed/<name>                ViTImageProcessor on the Pillow backend, float32 [3, H, W]
    cropped/<shorter>-<crop>        shorter side resized, centre cropped, as Hugging Face's transforms do: uint8
    positions/table                 float32 [1, 1 + 16, 6]: position embeddings of 4x4 patches, the class first
    positions/<N>                   the same for NxN patches, by torch's bicubic interpolation
    vit/<size>/pixels, vit/<size>/logits   the checkpoint at another image size, interpolate_pos_encoding=True
"""
import argparse
import os

import numpy as np
import safetensors.torch as st
import torch
import transformers
from PIL import Image
from transformers import ViTForImageClassification

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def source():
    """A picture with smooth parts, edges and noise, 37 high and 53 wide."""
    y, x = np.mgrid[0:37, 0:53]
    smooth = np.stack([4.8 * x, 6.8 * y, 2 * (x + y)], -1)
    noise = np.random.default_rng(5).integers(0, 256, (37, 53, 3))
    picture = np.where(((x // 9 + y // 7) % 3 == 0)[..., None], noise, smooth)
    picture[10:20, 30:40] = 255
    picture[22:30, 5:15] = 0
    return picture.clip(0, 255).astype(np.uint8)


def resize(picture, height, width, resample):
    return np.asarray(Image.fromarray(picture).resize((width, height), resample))


def shorter_and_crop(picture, shorter, crop):
    height, width = picture.shape[:2]
    short, long = min(height, width), max(height, width)
    longer = int(shorter * long / short)
    size = (shorter, longer) if height <= width else (longer, shorter)
    out = resize(picture, *size, Image.Resampling.BILINEAR)
    top, left = (size[0] - crop) // 2, (size[1] - crop) // 2
    return out[top:top + crop, left:left + crop].copy()


def processor(**settings):
    kind = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    return kind(**settings)


def interpolated(table, count):
    side = int((table.shape[1] - 1) ** 0.5)
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(
        patches, size=(count, count), mode="bicubic", align_corners=False)
    patches = patches.permute(0, 2, 3, 1).reshape(1, count * count, -1)
    return torch.cat([table[:, :1], patches], 1).contiguous()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--out", default=".")
    args = parser.parse_args()
    torch.manual_seed(3)
    picture = source()
    out = {"source": torch.from_numpy(picture)}
    for name, number in FILTERS.items():
        for height, width in [(16, 16), (20, 24), (50, 61)]:
            out[f"resized/{name}/{height}x{width}"] = torch.from_numpy(
                resize(picture, height, width, number).copy())
    for shorter, crop in [(20, 16), (37, 32), (45, 45)]:
        out[f"cropped/{shorter}-{crop}"] = torch.from_numpy(shorter_and_crop(picture, shorter, crop))
        out[f"cropped/turned/{shorter}-{crop}"] = torch.from_numpy(
            shorter_and_crop(picture.transpose(1, 0, 2).copy(), shorter, crop))
    usual = dict(size={"height": 16, "width": 16})
    for name, settings in {
        "half": dict(usual, resample=2, image_mean=[0.5] * 3, image_std=[0.5] * 3),
        "imagenet": dict(usual, resample=3, image_mean=[0.485, 0.456, 0.406],
                         image_std=[0.229, 0.224, 0.225]),
        "rescaled": dict(usual, resample=2, do_normalize=False),
    }.items():
        found = processor(**settings)(Image.fromarray(picture), return_tensors="pt")
        out[f"processed/{name}"] = found["pixel_values"][0].to(torch.float32).contiguous()
    table = torch.randn(1, 17, 6)
    out["positions/table"] = table
    for count in (2, 3, 5, 7, 12):
        out[f"positions/{count}"] = interpolated(table, count)
    model = ViTForImageClassification.from_pretrained(args.checkpoint).eval()
    patch = model.config.patch_size
    for size in (model.config.image_size + 2 * patch, model.config.image_size - patch):
        pixels = torch.randn(2, model.config.num_channels, size, size)
        with torch.no_grad():
            logits = model(pixels, interpolate_pos_encoding=True).logits
        out[f"vit/{size}/pixels"], out[f"vit/{size}/logits"] = pixels, logits
    versions = {"torch": torch.__version__, "transformers": transformers.__version__,
                "pillow": Image.__version__}
    st.save_file(out, os.path.join(args.out, "images.safetensors"), metadata=versions)
    print(versions, sum(x.numel() * x.element_size() for x in out.values()), "bytes")


if __name__ == "__main__":
    main()
