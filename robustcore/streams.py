"""Which stream of draws belongs to which method.

A draw is named by (seed, stream, image id, sample). Methods that must not share draws have streams
of their own: a distance is not measured from the draws that chose its sigma, nor a certificate from
those that an attack moved by. A law of noise that draws several arrays takes further streams, 2^20
apart (robustcore.noise).
"""

from __future__ import annotations

from enum import IntEnum


class Stream(IntEnum):
    """The fourth word of a draw's counter, in [0, 2^32)."""

    NOISE = 0  # error rates, sigma
    STARTS = 1  # random starts of attacks
    NOISY_POINTS = 2
    AUDIT = 3
    NEAREST_ERROR = 4  # noise within the search for the nearest error
    RARE_ERRORS = 5
    CERTIFY = 6
    SLICES = 7  # random directions
    PROBE = 8  # what a model is shown beside an image, to see whether that matters
    CORRUPTIONS = 0x100  # and one after it for each further corruption
    TRAINING = 0x7472
