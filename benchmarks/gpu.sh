#!/usr/bin/env bash
# Builds, tests and measures on a machine with a GPU, in ten minutes; downloads nothing.
#
#   bash benchmarks/gpu.sh [--dry-run] [--out FILE]
#   bash benchmarks/gpu.sh --sets [--dry-run] [--out FILE] [--data FOLDER]
#
# Needs Python with torch and Triton, nvcc and a C++ compiler. Wheels in wheels/, if there, are
# installed first, beside the build, in a folder that is removed. A part that fails or outlasts its
# time does not stop the others; the exit status is 1 if any did. Numbers go to
# benchmarks/results/gpu_NAME.json. --sets measures whole test sets instead, in ten minutes of their
# own; --data is a folder of CIFAR-10 for it. --dry-run takes the CPU, tiny sizes and what is installed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DRY='' OUT='' DATA='' SETS=''
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) DRY=--dry-run ;;
    --out) OUT=$2 && shift ;;
    --sets) SETS=1 ;;
    --data) DATA=$2 && shift ;;
    *) echo "usage: gpu.sh [--sets] [--dry-run] [--out FILE] [--data FOLDER]; got $1" >&2 && exit 2 ;;
    esac
    shift
done

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} PYTHONUNBUFFERED=1
if [ -z "$DRY" ]; then
    "$PYTHON" -c '
import sys
try:
    import torch
except ImportError as error:
    sys.exit(f"gpu.sh needs torch: {error}")
if not torch.cuda.is_available():
    sys.exit("gpu.sh needs a GPU: torch.cuda.is_available() is False")' || exit 2
    export ROBUSTCORE_TEST_DEVICE=cuda PYTHONPATH="$WORK/site" TRITON_CACHE_DIR="$WORK/triton"
fi

SAID=() FAILED=0
# part NAME SECONDS COMMAND...: its output, cut short, and how it ended
part() {
    local name=$1 limit=$2 status=0 began=$SECONDS end
    shift 2
    echo "== $name"
    timeout --kill-after=10 "$limit" "$@" >"$WORK/log" 2>&1 || status=$?
    tail -n "${LINES_SHOWN:-25}" "$WORK/log"
    case $status in
    0) end=passed ;;
    124 | 137) end="stopped after $limit s" && FAILED=1 ;;
    *) end="failed with status $status" && FAILED=1 ;;
    esac
    SAID+=("$name: $end, $((SECONDS - began)) s")
}
skip() { SAID+=("$1: left out, $2"); }

build() {
    if compgen -G 'wheels/*.whl' >/dev/null; then
        "$PYTHON" -m pip install -q --no-index --no-deps --target "$WORK/site" wheels/*.whl || return
    fi
    printf '[build_ext]\nparallel = %s\n' "$(nproc)" >"$WORK/build.cfg"
    DIST_EXTRA_CONFIG="$WORK/build.cfg" ROBUSTCORE_CUDA=1 "$PYTHON" -m pip install -q --no-index \
        --no-deps --no-build-isolation --target "$WORK/site" .
}

# -P: not the sources in this folder but what was built
tests() { "$PYTHON" -P -m pytest -q -p no:cacheprovider "$@"; }
export -f build tests
export PYTHON WORK
FUSED_TESTS=(tests/test_cuda.py tests/test_cuda_fused.py tests/test_cuda_ascent.py
    tests/test_fused_triton.py tests/test_fused_triton_ascent.py)
DEVICE_TESTS=(tests/test_gpu.py tests/test_kernels.py tests/test_kernels_ball.py "${FUSED_TESTS[@]}"
    tests/test_corruptions_kernels.py tests/test_evaluator.py)
# what launches kernels, and no process of its own
LAUNCHES='bits or margins or logits or counts or wide or step or start or taps or convol or descents'

MEASURE=("$PYTHON" benchmarks/gpu.py ${DRY:+$DRY} ${OUT:+--out "$OUT"})
summary() {
    echo '== summary'
    [ -z "$DRY" ] || echo 'a dry run on the CPU: the numbers mean nothing'
    "${MEASURE[@]}" || FAILED=1
    printf '%s\n' "${SAID[@]}"
    exit $FAILED
}

[ -n "$DRY" ] || part build 90 bash -c build
if [ -n "$SETS" ]; then
    part 'whole sets' 480 "${MEASURE[@]}" ${DATA:+--data "$DATA"} sets
    summary
fi
if [ -z "$DRY" ]; then
    part 'tests on the device' 100 bash -c 'tests "$@"' tests "${DEVICE_TESTS[@]}" -rs
    for tool in memcheck racecheck; do
        if command -v compute-sanitizer >/dev/null; then
            part "$tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 "$PYTHON" -P -m pytest \
                -q -p no:cacheprovider "${FUSED_TESTS[@]}" -k "$LAUNCHES"
        else
            skip "$tool" 'compute-sanitizer was not found'
        fi
    done
fi
part 'limits and kernels' 45 "${MEASURE[@]}" limits kernels
part digest 45 "${MEASURE[@]}" digest
part networks 110 "${MEASURE[@]}" networks
part attacks 45 "${MEASURE[@]}" attacks
if [ -z "$DRY" ]; then
    MANY=() && "$PYTHON" -c 'import xdist' 2>/dev/null && MANY=(-n auto)
    LEFT=$((590 - SECONDS))
    part 'all other tests' $((LEFT > 30 ? LEFT : 30)) bash -c 'tests "$@"' tests tests \
        "${DEVICE_TESTS[@]/#/--ignore=}" "${MANY[@]}"
fi

summary
