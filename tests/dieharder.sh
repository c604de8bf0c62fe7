#!/usr/bin/env bash
# Feeds the random words of robustcore to dieharder. Not part of the test suite: a full run takes
# hours. Needs Debian's dieharder and an environment with robustcore installed.
#
#   tests/dieharder.sh words               every test on the whole words
#   tests/dieharder.sh low16               every test on the low 16 bits of each word
#   tests/dieharder.sh low8 -d 0 -d 1      the low 8 bits; dieharder's own options instead of -a
#
# PYTHON names the interpreter (default .venv/bin/python). Words come in the order in which a search
# draws them: all blocks of an image of 3 x 32 x 32, then the next sample. Of the hundred or so
# p-values some are expected to be WEAK (below 0.005 or above 0.995); none may be FAILED.
set -euo pipefail
cd "$(dirname "$0")/.."
bits=${1:?words, low16 or low8}
shift
[ $# -gt 0 ] || set -- -a

# dieharder stops reading when it has enough: the writer's broken pipe is then no failure.
("${PYTHON:-.venv/bin/python}" - "$bits" <<'PROGRAM' || true) | dieharder -g 200 "$@"
import sys

import torch

from robustcore.kernels import select

keep = {"words": torch.uint32, "low16": torch.uint16, "low8": torch.uint8}[sys.argv[1]]
torch.set_num_threads(1)
philox = select(None, "cpu").philox
blocks, samples = 768, 512
counter = torch.zeros(samples, blocks, 4, dtype=torch.int64)
counter[..., 0] = torch.arange(blocks)
first = 0
while True:
    counter[..., 1] = torch.arange(first, first + samples)[:, None]
    words = philox(counter.view(-1, 4), (20180101, 0)).to(torch.int32)
    low = words.view(keep)[:, :: 4 // keep.itemsize].contiguous()
    try:
        sys.stdout.buffer.write(low.numpy())
    except BrokenPipeError:
        break
    first += samples
PROGRAM
