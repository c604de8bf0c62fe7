#!/usr/bin/env bash
# Tests of the C++ under gcc's sanitizers, of a build of its own in build/sanitize.
#   tests/sanitize.sh [python]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=$(realpath --no-symlinks "${1:-.venv/bin/python}")
BUILD=build/sanitize
export ROBUSTCORE_CUDA=0 OMP_NUM_THREADS=1

# The pool by its driver: the driver has threads, so it runs under each sanitizer on its own.
mkdir -p "$BUILD"
for sanitizers in thread address,undefined; do
    g++ -O1 -g -std=c++17 -pthread -Wall -Wextra -fsanitize="$sanitizers" -fno-sanitize-recover=all \
        -Icsrc tests/pool.cpp csrc/cpu/parallel.cpp -o "$BUILD/pool"
    echo "pool, $sanitizers:"
    # without randomised addresses, which ThreadSanitizer's map may not hold
    TSAN_OPTIONS=halt_on_error=1:die_after_fork=0 ASAN_OPTIONS=detect_leaks=1 \
        setarch --addr-no-randomize "$BUILD/pool"
done

export ROBUSTCORE_SANITIZE=address,undefined
"$PYTHON" setup.py --quiet build --build-base "$BUILD" --build-lib "$BUILD/lib"

# Python itself is not built for AddressSanitizer: the runtime comes first, and the C++ library
# that it watches with it. Python and torch keep memory until the end, so leaks are not looked for.
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so)"
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export PYTHONPATH="$PWD/$BUILD/lib"

echo "a write past the end of an array, which must be found:"
CONTROL='
import ctypes, sys
sys.path.remove("")  # not the sources
from robustcore import _native
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
counters, words = libc.malloc(64), libc.malloc(32)
_native.philox(counters, 2, (0, 0), words, sys.argv[1])
'
ISAS=$("$PYTHON" -c 'import sys; sys.path.remove(""); from robustcore import _native
print(*_native.isas())')
for isa in $ISAS; do
    "$PYTHON" -c "$CONTROL" "$isa" 2>"$BUILD/control" && exit 1
    grep 'ERROR: AddressSanitizer: heap-buffer-overflow' "$BUILD/control"
done

# Findings are written to the process's own errors, which pytest would keep to itself. nvcc does not
# run under a sanitizer.
"$(dirname "$PYTHON")/pytest" -q -p no:cacheprovider --capture=sys \
    -k "not compiles_for_each_architecture" \
    tests/test_kernels.py tests/test_kernels_native.py tests/test_kernels_ball.py \
    tests/test_kernels_ball_native.py tests/test_cuda.py tests/test_cuda_fused.py \
    tests/test_cuda_ascent.py tests/test_fused.py tests/test_fused_counts.py \
    tests/test_fused_descent.py tests/test_fused_gradient.py tests/test_corruptions_kernels.py
