"""Whose error it is: one that robustcore raised with a sentence for its user, or another's."""

from __future__ import annotations

import dis
from pathlib import Path

HERE = Path(__file__).parent
# Where the user's model is called: what is raised behind these is its own
CALLS = {HERE / name for name in ("network.py", "gradients.py")}
RAISE = dis.opmap["RAISE_VARARGS"]


def is_ours(error: BaseException) -> bool:
    """Whether a `raise` of robustcore made it.

    Other errors come from a library, or from the user's code, and name no argument: a call of torch
    that fails has no frame of its own, so that the last instruction tells it from a `raise`.
    """
    trace = error.__traceback__
    if trace is None or isinstance(error, AssertionError):
        return trace is None
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return HERE in Path(code.co_filename).parents and code.co_code[trace.tb_lasti] == RAISE


def is_of_model(error: BaseException) -> bool:
    """Whether it came up in a call of the user's model, or of its gradient."""
    files, trace = set(), error.__traceback__
    while trace is not None:
        files.add(Path(trace.tb_frame.f_code.co_filename))
        trace = trace.tb_next
    return not is_ours(error) and bool(files & CALLS)


def sentence(error: BaseException) -> str:
    """Its own words where it is ours, else with its type."""
    return str(error) if is_ours(error) else f"{type(error).__name__}: {error}"
