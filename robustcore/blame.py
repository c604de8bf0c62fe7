"""Where an error comes from: robustcore's own sentence for its user, the model, or a library."""

from __future__ import annotations

import dis
from pathlib import Path

from robustcore.network import ModelError

HERE = Path(__file__).parent
# Where the user's model is called: what is raised below these is its own
CALLS = {HERE / name for name in ("network.py", "gradients.py")}
RAISE = dis.opmap["RAISE_VARARGS"]


def _original(error: BaseException) -> BaseException:
    """What the model raised, where its call was named."""
    if isinstance(error, ModelError) and error.__cause__ is not None:
        return error.__cause__
    return error


def is_ours(error: BaseException) -> bool:
    """Whether a `raise` of robustcore made it.

    Other errors come from a library, or from the user's code, and name no argument: a call of torch
    that fails has no frame of its own, so that the last instruction tells it from a `raise`.
    """
    error = _original(error)
    trace = error.__traceback__
    if trace is None:
        return True  # made and never raised
    if isinstance(error, AssertionError):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return HERE in Path(code.co_filename).parents and code.co_code[trace.tb_lasti] == RAISE


def is_of_model(error: BaseException) -> bool:
    """Whether it came up in a call of the user's model, or of its gradient."""
    files = set()
    trace = _original(error).__traceback__
    while trace is not None:
        files.add(Path(trace.tb_frame.f_code.co_filename))
        trace = trace.tb_next
    return not is_ours(error) and bool(files & CALLS)


def sentence(error: BaseException) -> str:
    """The message where it is ours, else with the type of the error."""
    error = _original(error)
    return str(error) if is_ours(error) else f"{type(error).__name__}: {error}"
