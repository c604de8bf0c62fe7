"""What a run leaves in its folder, each file whole or not at all.

checkpoint.pt: state after the last finished epoch. weights.safetensors and card.json: the result.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from robustcore import inputs, zoo
from robustcore.results.files import write_text, write_whole
from robustcore.training.settings import differing

CHECKPOINT, WEIGHTS, CARD = "checkpoint.pt", "weights.safetensors", "card.json"


def begin(model: nn.Module, start: str | Path) -> dict[str, str]:
    """Load weights of the zoo, or of a file, into `model`. Returns their name and sha256."""
    path = inputs.path("start", start, "a name of the zoo or a .safetensors file")
    path = zoo.FOLDER / f"{start}.safetensors" if str(start) in zoo.names() else path
    try:
        weights = path.read_bytes()
        model.load_state_dict(load(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"start must be one of {', '.join(zoo.names())} or a .safetensors file with weights of "
            f"this network, was {start}: {reason}"
        ) from error
    return {"name": path.stem, "sha256": hashlib.sha256(weights).hexdigest()}


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    write_whole(folder / CHECKPOINT, lambda file: torch.save(state, file), name="out")


def load_checkpoint(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state to go on from, or None. Raises ValueError when it is that of another run."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    hint = f"give another folder or delete {CHECKPOINT} there"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        held = state["identity"]
    except Exception as error:
        raise ValueError(
            f"out must hold no {CHECKPOINT} or one of this function, "
            f"that in {folder} cannot be read ({type(error).__name__}): {hint}"
        ) from error
    name = differing(identity, held)
    if name is not None:
        raise ValueError(
            f"{name} must be that of the run in out, {held.get(name)}, was {identity[name]}: {hint}"
        )
    return state


def save_result(folder: Path, model: nn.Module, card: dict[str, Any]) -> dict[str, Any]:
    """Write the weights, and the card with their sha256. Returns the card as written.

    A network with a part named `learnt` is written as that part alone.
    """
    model = getattr(model, "learnt", model)
    weights = save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()})
    card = card | {"sha256": hashlib.sha256(weights).hexdigest()}
    text = json.dumps(card, indent=2) + "\n"
    write_whole(folder / WEIGHTS, lambda file: file.write(weights), name="out")
    write_text(folder / CARD, text, name="out")
    return card


def versions() -> dict[str, str]:
    return {"robustcore": version("robustcore"), "torch": torch.__version__.split("+")[0]}
