#!/usr/bin/env bash
# Builds, tests and measures on a machine with a GPU, in ten minutes; downloads nothing.
#
#   bash benchmarks/gpu.sh [--dry-run] [--out FILE]
#   bash benchmarks/gpu.sh --sets [--dry-run] [--out FILE] [--data FOLDER]
#   bash benchmarks/gpu.sh --rest
#
# Needs Python with torch and Triton, nvcc and a C++ compiler. Wheels in wheels/, if there, are
# installed first, beside the build, in a folder that is removed. A part that fails or outlasts its
# time does not stop the others; the exit status is 1 if any did. Numbers go to
# benchmarks/results/gpu_NAME.json, or to FILE, as soon as each is known; with FILE all that is said
# goes to a .log beside it. --sets measures whole test sets instead, in ten minutes of their own;
# --data is a folder with CIFAR-10's test.npz for it. --rest runs the tests that the first command
# leaves out: those that need no device, and slow ones. --dry-run takes the CPU, tiny sizes and what
# is installed.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DRY='' OUT='' DATA='' SETS='' REST=''
while [ $# -gt 0 ]; do
    case $1 in
    --dry-run) DRY=--dry-run ;;
    --out) OUT=$2 && shift ;;
    --sets) SETS=1 ;;
    --rest) REST=1 ;;
    --data) DATA=$2 && shift ;;
    *) echo "usage: gpu.sh [--sets | --rest] [--dry-run] [--out FILE] [--data FOLDER]; got $1" >&2 && exit 2 ;;
    esac
    shift
done

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} PYTHONUNBUFFERED=1
export GIT_PYTHON_REFRESH=quiet # foolbox asks for a git that it does not need
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
    PATH="$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer"
    ROBUSTCORE_CUDA_ARCHS=$("$PYTHON" -c '
import torch
print("{}{}".format(*torch.cuda.get_device_capability()))')
    export PATH ROBUSTCORE_CUDA_ARCHS
    # a Python made elsewhere may name a compiler that is not here
    command -v g++ >/dev/null && export CC="${CC:-gcc}" CXX="${CXX:-g++}"
fi

SAID=() FAILED=0
# part NAME SECONDS COMMAND...: its output, cut short, and how it ended
part() {
    local name=$1 limit=$2 status=0 began=$SECONDS end
    shift 2
    echo "== $name"
    # an interrupt, at which pytest tells what failed so far
    timeout --signal=INT --kill-after=15 "$limit" "$@" >"$WORK/log" 2>&1 || status=$?
    tail -n "${LINES_SHOWN:-25}" "$WORK/log"
    [ -z "$OUT" ] || { echo "== $name" && cat "$WORK/log"; } >>"${OUT%.json}.log"
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
DEVICE_TESTS=(tests/test_gpu.py tests/test_kernels.py tests/test_kernels_ball.py
    tests/test_kernels_laws.py "${FUSED_TESTS[@]}" tests/test_corruptions_kernels.py tests/test_evaluator.py)
# what needs no device: the interpreter, compilation for other devices
NO_DEVICE='interpreter or compiles'
# what launches each kernel, and no process of its own: it runs a hundred times slower when watched
WATCHED=(tests/test_kernels.py tests/test_kernels_ball.py tests/test_kernels_laws.py "${FUSED_TESTS[@]}")
LAUNCHES='triton and (any_number or strides or neighbours or 257 and best or 255 and start)'
LAUNCHES+=' or perturb and bits or margins and dtype0 or balls and 257 or bits and mlp'
LAUNCHES+=' or convolutions and chain or logits and (mlp or chain) or descent and mlp or beside'

MEASURE=("$PYTHON" benchmarks/gpu.py ${DRY:+$DRY} ${OUT:+--out "$OUT"})
summary() {
    echo '== summary'
    [ -z "$DRY" ] || echo 'a dry run on the CPU: the numbers mean nothing'
    "${MEASURE[@]}" || FAILED=1
    printf '%s\n' "${SAID[@]}"
    exit $FAILED
}

[ -n "$DRY" ] || part build 120 bash -c build
if [ -n "$SETS" ]; then
    part 'whole sets' 465 "${MEASURE[@]}" ${DATA:+--data "$DATA"} sets
    summary
fi
if [ -n "$REST" ]; then
    MANY=() && "$PYTHON" -c 'import xdist' 2>/dev/null && MANY=(-n auto)
    export OMP_NUM_THREADS=1 ROBUSTCORE_TEST_DEVICE=cpu CUDA_VISIBLE_DEVICES= # they take the CPU
    part 'all other tests' 360 bash -c 'tests "$@"' tests tests "${DEVICE_TESTS[@]/#/--ignore=}" \
        "${MANY[@]}"
    part 'tests without a device' 110 bash -c 'tests "$@"' tests "${DEVICE_TESTS[@]}" \
        -k "$NO_DEVICE" "${MANY[@]}"
    unset CUDA_VISIBLE_DEVICES
    summary
fi
part 'limits and kernels' 50 "${MEASURE[@]}" limits kernels
part digest 60 "${MEASURE[@]}" digest
if [ -z "$DRY" ]; then
    part 'tests on the device' 110 bash -c 'tests "$@"' tests "${DEVICE_TESTS[@]}" -rs \
        -k "not ($NO_DEVICE)"
fi
part networks 130 "${MEASURE[@]}" networks
part attacks 45 "${MEASURE[@]}" attacks
if [ -z "$DRY" ]; then
    for tool in memcheck racecheck; do
        LEFT=$(((585 - SECONDS) / ($([ $tool = memcheck ] && echo 2 || echo 1))))
        if ! command -v compute-sanitizer >/dev/null; then
            skip "$tool" 'compute-sanitizer was not found'
        elif [ $LEFT -lt 20 ]; then
            skip "$tool" 'no time was left'
        else
            # without torch's own pieces of memory, beyond whose ends nothing would be seen
            part "$tool" $LEFT env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer \
                --tool "$tool" --error-exitcode 9 "$PYTHON" -P -m pytest -q -p no:cacheprovider \
                "${WATCHED[@]}" -k "$LAUNCHES"
        fi
    done
fi

summary
