#!/usr/bin/env bash
# Holds prebuilt binaries against the GPU of this machine: are they right, and how fast.
#
#   scripts/gpu-check.sh FOLDER [RESULTS [GROUP...]]
#
# FOLDER holds what gpu-binaries.sh made. GROUP is nccl, training, examples or steps; all of them where
# none is named. Nothing is built: the machine needs the NVIDIA driver, what the build compiles kernels
# with (docs/gpu.md; set CUDA_PATH if the toolkit is not in /usr/local/cuda), and NCCL for what goes from
# GPU to GPU. Prints a table, leaves RESULTS/gpu-check.json and each part's log, and fails if a part does;
# what the machine cannot do is skipped, aloud. Run from the repository, whose tests/golden it reads.
set -uo pipefail
cd "$(dirname "$0")/.."
all="nccl training examples steps"
[ $# -gt 0 ] || { echo "usage: gpu-check.sh FOLDER [RESULTS [GROUP...]], groups: $all" >&2; exit 2; }
folder=$(realpath "$1")
results=${2:-gpu-check}
groups=" ${*:3} "
[ "$groups" = "  " ] && groups=" $all "
for group in $groups; do
    [[ " $all " = *" $group "* ]] || { echo "no group $group, but $all" >&2; exit 2; }
done
for program in nccl gpu vit_fsdp bert_fsdp gpu_step; do
    [ -x "$folder/$program" ] || { echo "no program $folder/$program" >&2; exit 1; }
done
mkdir -p "$results"
results=$(realpath "$results")
[ -d "${CUDA_PATH:-/usr/local/cuda}" ] && export CUDA_PATH=${CUDA_PATH:-/usr/local/cuda}
export BURN_DIST_TEST_DEVICE=cuda RUST_BACKTRACE=1

gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -1)
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ')
[ "$gpus" -gt 0 ] || { echo "no NVIDIA GPU: nvidia-smi lists none" >&2; exit 1; }

# Where it is not among the system's libraries, it may have come with a Python package.
if [ -z "${BURN_DIST_NCCL_LIB:-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libnccl\.so'; then
    found=$(find / -xdev -name 'libnccl.so.2' -not -path '/proc/*' 2>/dev/null | sort | head -1)
    [ -n "$found" ] && export BURN_DIST_NCCL_LIB=$found
fi
# "NCCL 2.30.7 from libnccl.so.2, 1 GPUs", or why there is none.
if said=$("$folder/nccl" --gpu 0 2>&1); then
    nccl=$(sed -n 's/^NCCL \([0-9.]*\) from.*/\1/p' <<<"$said")
    without=
else
    nccl=
    without=$(tail -1 <<<"$said" | sed 's/^error: //')
fi
build=$(cat "$folder/build" 2>/dev/null || echo unknown)
echo "GPU: $gpu, $gpus of them; NCCL: ${nccl:-none}; build: $build"
printf '%-48s %8s %s\n' part seconds result

lines=()
failed=0
# Ends with what there is, also where somebody cannot wait.
write() {
    {
        printf '{"gpu": "%s", "gpus": %s, "nccl": "%s", "build": "%s", "date": "%s", "parts": [' \
            "$gpu" "$gpus" "$nccl" "$build" "$(date -u +%F)"
        (IFS=,; printf '%s' "${lines[*]-}")
        printf ']'
        for steps in "$results"/steps-*.json; do
            [ -e "$steps" ] || continue
            printf ', "%s": %s' "$(basename "$steps" .json)" "$(cat "$steps")"
        done
        printf '}\n'
    } >"$results/gpu-check.json"
    echo "figures: $results/gpu-check.json"
}
trap write EXIT
trap 'exit 130' INT TERM

# note NAME SECONDS RESULT: a line of the table.
note() {
    printf '%-48s %8s %s\n' "$1" "$2" "$3"
    lines+=("{\"part\": \"$1\", \"seconds\": $2, \"result\": \"$(tr -d '"\\' <<<"$3")\"}")
}
# part NAME SECONDS COMMAND...: runs a part with a limit, and notes how it went.
part() {
    local name=$1 limit=$2 start rc result log
    shift 2
    log="$results/${name//[^a-zA-Z0-9]/-}.log"
    start=$(date +%s.%N)
    timeout --kill-after=10 "$limit" "$@" >"$log" 2>&1
    rc=$?
    case $rc in
        0) result=passed ;;
        124 | 137) result="no end within $limit s" failed=1 ;;
        *) result="failed ($rc), see ${log##*/}" failed=1 ;;
    esac
    grep -q 'skipped: ' "$log" && result="$result, with parts skipped"
    note "$name" "$(awk "BEGIN { printf \"%.1f\", $(date +%s.%N) - $start }")" "$result"
}
in_group() { [[ $groups = *" $1 "* ]]; }
newest_of() { printf '%s\n' "$@" | sort -V | tail -1; }

# How two ranks can go from GPU to GPU here: each on its own, or, since NCCL 2.30, on one.
two=()
if [ -n "$nccl" ] && [ "$gpus" -eq 1 ]; then
    if [ "$(newest_of "$nccl" 2.30)" = "$nccl" ]; then
        two=(env NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_MAX_CTAS=4 NCCL_NVLS_ENABLE=0)
    else
        without="one GPU, which two ranks cannot share in NCCL $nccl"
    fi
elif [ -n "$nccl" ]; then
    two=(env)
fi
one_gpu=
[ "$gpus" -eq 1 ] && one_gpu=--one-gpu

if in_group nccl; then
    if [ -n "$nccl" ]; then
        part "NCCL at world 1" 120 "$folder/nccl" --gpu 1
    else
        note "NCCL at world 1" 0 "skipped: $without"
    fi
    if [ ${#two[@]} -gt 0 ]; then
        for order in host device; do
            part "NCCL at world 2, the $order waits" 240 "${two[@]}" BURN_DIST_GPU_ORDER=$order \
                BURN_DIST_GPU_TRANSPORT=nccl "$folder/nccl" --gpu 2 $one_gpu
            [ "$gpus" -gt 2 ] && part "NCCL at world $gpus, the $order waits" 240 env \
                BURN_DIST_GPU_ORDER=$order BURN_DIST_GPU_TRANSPORT=nccl "$folder/nccl" --gpu "$gpus"
        done
    else
        note "NCCL at world 2" 0 "skipped: $without"
    fi
fi
if in_group training; then
    for tests in training:: transformers:: precision:: saves:: stress::; do
        part "against the CPU: ${tests%::}" 600 "$folder/gpu" "$tests" --test-threads 1 --nocapture
    done
    if [ ${#two[@]} -gt 0 ]; then
        for order in host device; do
            part "two ranks over NCCL, the $order waits" 300 "${two[@]}" BURN_DIST_GPU_ORDER=$order \
                BURN_DIST_GPU_TRANSPORT=nccl "$folder/vit_fsdp" --log-to none --device cuda --nproc-per-node 2 \
                --epochs 1 --shadow 4
        done
    else
        note "two ranks over NCCL" 0 "skipped: $without"
    fi
    part "two ranks through the host" 300 env BURN_DIST_GPU_TRANSPORT=host \
        "$folder/vit_fsdp" --log-to none --device cuda --nproc-per-node 2 --epochs 1 --shadow 4
fi
if in_group examples; then
    part "example vit_fsdp" 300 "$folder/vit_fsdp" --log-to none --device cuda --epochs 2
    part "example bert_fsdp" 300 "$folder/bert_fsdp" --log-to none --device cuda --epochs 2
fi
if in_group steps; then
    rm -f "$results"/steps-*.json
    part "step times at world 1" 1200 "$folder/gpu_step" --device cuda --json "$results/steps-1.json"
    if [ ${#two[@]} -gt 0 ]; then
        for order in host device; do
            part "step times at world 2, the $order waits" 900 "${two[@]}" BURN_DIST_GPU_ORDER=$order \
                BURN_DIST_GPU_TRANSPORT=nccl "$folder/gpu_step" --device cuda --nproc 2 $one_gpu \
                --json "$results/steps-2-$order.json"
        done
    fi
    part "step times at world 2, through the host" 900 env BURN_DIST_GPU_TRANSPORT=host \
        "$folder/gpu_step" --device cuda --nproc 2 $one_gpu --json "$results/steps-2-staged.json"
    for log in "$results"/step-times-*.log; do
        printf '\n%s\n' "$(basename "$log" .log)"
        cat "$log"
    done
fi
exit $failed
