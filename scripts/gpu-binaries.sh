#!/usr/bin/env bash
# Builds what gpu-check.sh runs and puts it into a folder, to be carried to a machine with a GPU.
#
#   scripts/gpu-binaries.sh FOLDER [FEATURES]
#
# FEATURES: cuda (the default; its build downloads LLVM), or cuda-nvrtc, and fusion beside either.
# Another builder than cargo is taken from $CARGO, for machines that cannot build plainly.
set -euo pipefail
folder=${1:?where to put the binaries}
features=${2:-cuda}
cd "$(dirname "$0")/.."
mkdir -p "$folder"

# What cargo made, under the name of its target.
collect() {
    sed -n 's/.*"name":"\([^"]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
        while read -r name path; do
            cp "$path" "$folder/$name"
            strip "$folder/$name" 2>/dev/null || true
            echo "$folder/$name"
        done
}
${CARGO:-cargo} test --release --features "$features" --no-run \
    --message-format=json-render-diagnostics \
    --test gpu --test nccl --bench gpu_step | collect
${CARGO:-cargo} build --release --features "$features" \
    --message-format=json-render-diagnostics \
    --example vit_fsdp --example bert_fsdp | collect
# What gpu-check.sh writes beside the figures.
echo "$features, $(git describe --always --dirty 2>/dev/null || echo 'no git')" >"$folder/build"
