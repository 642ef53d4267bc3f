"""Reads a save (docs/saves.md): python read_save.py RUN lists its tensors; load(RUN) returns them as arrays."""

import json
import pathlib
import sys
import zlib
import numpy as np
from safetensors import numpy as tensors

BLOCK = 1 << 20


def load(run):
    """The tensors of the latest save of a run, by their names in the data files (bf16 as uint16)."""
    save = pathlib.Path(run) / (pathlib.Path(run) / "latest").read_text().strip()
    text = (save / "manifest.json").read_bytes()
    manifest = json.loads(text)
    assert (manifest["format"], manifest["version"]) == ("burn-dist save", 3), save
    blank = text.replace(manifest["crc32"].encode(), b"00000000", 1)
    assert f"{zlib.crc32(blank):08x}" == manifest["crc32"], f"{save}: the manifest was changed"
    files = []
    for file in manifest["files"]:
        data = (save / file["name"]).read_bytes()
        blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
        assert "".join(f"{zlib.crc32(block):08x}" for block in blocks) == file["sums"], file["name"]
        files.append(tensors.load(data))
    found = {}
    for model, listed in manifest["models"].items():
        for kind, part in (("models", listed), ("optimizers", listed["optimizer"] or {"tensors": []})):
            for tensor in part["tensors"]:
                name = f"{kind}/{model}/{tensor['name']}"
                pieces = [files[file][name] for file, _, _ in tensor["pieces"]]
                whole = np.concatenate(pieces) if pieces else np.empty(0)
                found[name] = whole.reshape(tensor["shape"])
    return found


if __name__ == "__main__":
    for name, array in load(sys.argv[1]).items():
        print(name, list(array.shape), array.dtype)
