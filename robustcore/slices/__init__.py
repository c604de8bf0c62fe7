"""Church windows: planes through an image and two of its errors, and how the model divides them."""

from robustcore.slices.windows import church_windows

__all__ = ["church_windows"]
