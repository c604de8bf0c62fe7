"""Do two evaluations of the same images agree, up to the model's own arithmetic?

A logit is compared with its own size and with its range over images, never with a larger logit: a
class that is masked by -1e4 or -inf, or one constant far above the rest, says nothing of how
exactly the others are computed. Nor does what all logits of an image have in common, as log-
densities have: it decides nothing, so sizes and ranges are taken without it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Far above the rounding of one algorithm, far below any dropout or random resize.
SAME = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
# Batches of other sizes are computed by other algorithms. Where a model works in bfloat16 or TF32
# within, whatever type it returns, their rounding differs by about a hundredth.
OTHER_SIZE = 5e-2
ROUNDINGS = 16  # of a logit as it is: what its common part adds to the difference


def apart(logits: Tensor) -> Tensor:
    """(S, K) float64: each row of logits less the median of its finite ones."""
    wide = logits.double()
    middle = wide.masked_fill(~wide.isfinite(), torch.nan).nanmedian(1, keepdim=True).values
    return wide - middle.nan_to_num()


def ranges_of(logits: Tensor) -> Tensor:
    """The range of each logit over different images (S, K), without what all have in common: (K,).

    At least the median of those above 0, so that one that hardly varies by chance is not held to
    its own range; 0 for a constant.
    """
    wide = apart(logits)
    finite = wide.isfinite()
    least = wide.masked_fill(~finite, torch.inf).amin(0)
    most = wide.masked_fill(~finite, -torch.inf).amax(0)
    ranges = (most - least).clamp(min=0)
    varies = ranges > 0
    if bool(varies.any()):
        ranges[varies] = ranges[varies].clamp(min=float(ranges[varies].median()))
    return ranges


def difference(a: Tensor, b: Tensor, ranges: Tensor) -> Tensor:
    """(S, K): |a - b| over the logit's size and range; inf where only one is NaN or inf."""
    rounding = ROUNDINGS * max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    own = torch.maximum(apart(a).abs(), apart(b).abs())
    # of few logits the median is one of them, and has no size of its own: as large as the next
    own = torch.maximum(own, own.masked_fill(~(own > 0), torch.inf).amin(1, keepdim=True))
    a, b = a.double(), b.double()
    alike = (a == b) | (a.isnan() & b.isnan())
    whole = torch.maximum(a.abs(), b.abs())
    size = torch.minimum(whole, own) + ranges
    beyond = ((a - b).abs() - rounding * whole).clamp(min=0)
    return (beyond / size).nan_to_num(torch.inf, torch.inf).masked_fill(alike, 0.0)


def same(a: Tensor, b: Tensor, ranges: Tensor) -> bool:
    """Of batches of one size: no logit differs by more than the rounding of its type."""
    return bool(difference(a, b, ranges).amax() <= SAME.get(a.dtype, 1e-3))


def same_at_other_size(a: Tensor, b: Tensor, ranges: Tensor) -> bool:
    """Of batches of different sizes: the median difference of a row's logits that vary is small."""
    varies = ranges > 0
    if not bool(varies.any()):
        return same(a, b, ranges)
    return bool((difference(a, b, ranges)[:, varies].median(1).values <= OTHER_SIZE).all())


def columns(outputs: Tensor) -> Tensor:
    """Outputs (S, ...) as (S, K) with K at least 2; beside a single output stands 0."""
    flat = outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]
    return flat if flat.shape[1] > 1 else torch.cat([flat, torch.zeros_like(flat)], 1)
