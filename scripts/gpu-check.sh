#!/usr/bin/env bash
# Holds prebuilt binaries against the GPU of this machine: are they right, and how fast.
#
#   scripts/gpu-check.sh FOLDER [RESULTS]
#
# FOLDER holds what gpu-binaries.sh made. Nothing is built: the machine needs the NVIDIA driver, CUDA's
# runtime compiler and headers (set CUDA_PATH if they are not in /usr/local/cuda), and NCCL for what
# goes from GPU to GPU. Prints a table, leaves RESULTS/gpu-check.json and each part's log, and fails if
# a part does. Run from the repository, whose tests/golden it reads.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath "${1:?the folder with the binaries}")
results=${2:-gpu-check}
mkdir -p "$results"
results=$(realpath "$results")
[ -d "${CUDA_PATH:-/usr/local/cuda}" ] && export CUDA_PATH=${CUDA_PATH:-/usr/local/cuda}
export BURN_DIST_TEST_DEVICE=cuda RUST_BACKTRACE=1

# Where it is not among the system's libraries, it may have come with a Python package.
nccl=$(ldconfig -p 2>/dev/null | sed -n 's/.*libnccl\.so\.2 .*=> //p' | head -1)
[ -n "$nccl" ] || nccl=$(find / -name 'libnccl.so.2' -not -path '/proc/*' 2>/dev/null | sort | head -1)
[ -n "$nccl" ] && export BURN_DIST_NCCL_LIB=$nccl

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
[ "$gpus" -gt 0 ] || { echo "no NVIDIA GPU: nvidia-smi lists none" >&2; exit 1; }
echo "GPU: $gpu, $gpus of them; NCCL: ${nccl:-none}"
printf '%-44s %8s %s\n' part seconds result

lines=()
failed=0
# part NAME SECONDS COMMAND...: runs a part with a limit, and notes how it went.
part() {
    local name=$1 limit=$2 start end rc result log
    shift 2
    log="$results/${name//[^a-zA-Z0-9]/-}.log"
    start=$(date +%s.%N)
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    rc=$?
    end=$(date +%s.%N)
    case $rc in
        0) result=passed ;;
        124 | 137) result="no end within $limit s" failed=1 ;;
        *) result="failed ($rc)" failed=1 ;;
    esac
    grep -q '^skipped:' "$log" && result="$result, with parts skipped"
    local took
    took=$(awk "BEGIN { printf \"%.1f\", $end - $start }")
    printf '%-44s %8s %s\n' "$name" "$took" "$result"
    lines+=("{\"part\": \"$name\", \"seconds\": $took, \"result\": \"$result\"}")
}
here() { [ -x "$folder/$1" ]; }

if here nccl; then
    part "NCCL at world 1" 120 "$folder/nccl" --gpu 1
    # Two ranks on one GPU, which NCCL allows since 2.30.
    part "NCCL at world 2 on one GPU" 180 env NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=4 \
        NCCL_NVLS_ENABLE=0 "$folder/nccl" --gpu 2 --one-gpu
    [ "$gpus" -gt 1 ] && part "NCCL at world $gpus" 180 "$folder/nccl" --gpu "$gpus"
fi
if here gpu; then
    for tests in training:: transformers:: precision:: saves:: stress::; do
        part "against the CPU: ${tests%::}" 600 "$folder/gpu" "$tests" --test-threads 1 --nocapture
    done
fi
if here vit_fsdp; then
    part "example vit_fsdp" 300 "$folder/vit_fsdp" --device cuda --ranks 1 --epochs 2
    part "two ranks of vit_fsdp through the host" 300 env BURN_DIST_GPU_TRANSPORT=host \
        "$folder/vit_fsdp" --device cuda --nproc-per-node 2 --epochs 1 --shadow 2
fi
here bert_fsdp && part "example bert_fsdp" 300 "$folder/bert_fsdp" --device cuda --ranks 1 --epochs 2
if here gpu_step; then
    part "step times at world 1" 1200 "$folder/gpu_step" --device cuda --json "$results/steps-1.json"
    part "step times at world 2 on one GPU" 900 env NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=4 \
        NCCL_NVLS_ENABLE=0 "$folder/gpu_step" --device cuda --nproc 2 --one-gpu \
        --json "$results/steps-2.json"
    cat "$results"/step-times-*.log
fi

{
    printf '{"gpu": "%s", "gpus": %s, "nccl": "%s", "date": "%s", "parts": [' \
        "$gpu" "$gpus" "$nccl" "$(date -u +%F)"
    (IFS=,; printf '%s' "${lines[*]}")
    printf '], "steps": %s, "steps_on_two_ranks": %s}\n' \
        "$(cat "$results/steps-1.json" 2>/dev/null || echo null)" \
        "$(cat "$results/steps-2.json" 2>/dev/null || echo null)"
} >"$results/gpu-check.json"
echo "figures: $results/gpu-check.json"
exit $failed
