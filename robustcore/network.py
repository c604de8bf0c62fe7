"""A user's model as the engine needs it: inputs (S, C, H, W) in, checked outputs out.

Inputs of another shape than (C, H, W) are (S, 1, 1, D) in the engine; the model is given them in
their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustcore.agreement import columns, same_at_other_size
from robustcore.arguments import function
from robustcore.batches import out_of_memory
from robustcore.errors import Criterion
from robustcore.inputs import takes_pictures, tensors_of

Model = Callable[[Tensor], Any]

COMPILE_FLOPS = 1e13  # on a CPU, compiling takes about as long as this much eager work
USUAL_COMPILED = 8192  # images of the batch to compile with, where nobody knows how many will come
SMALLEST_COMPILED = 16  # smaller batches would be compiled again, one by one
SPREAD = 4  # images of a batch that are compared with what the model says of them alone
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class ModelError(RuntimeError):
    """The model failed on images; its own error is the cause."""


class Network:
    """The model with its answers checked, its memory format chosen, compiled where that is wanted.

    shape: of one input, as the model takes it. error: the criterion that checks what the model
    returns; None: "top1".

    Errors: TypeError or ValueError when the model sits on another device than the images, has a
    batch norm in training mode, or does not return what the criterion takes: by default logits
    (S, K) with K >= 2.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        shape: torch.Size,
        error: Criterion | None = None,
    ) -> None:
        function("model", model)
        self.model, self.device, self.dtype = model, device, dtype
        self.shape, self.error = shape, error
        self.eager = model  # as it is called where it is not compiled
        self.layout = torch.contiguous_format
        self.notes: list[str] = []
        self._compiled: Model | None = None
        self._compile_failed = False
        self._compiled_gradients: Model | None = None
        self._flops: int | None = None
        self._ranges: Tensor | None = None  # of logits, where batches of other sizes are compared
        self._compared = 0  # images of the largest batch that was
        self._comparisons = 0  # evaluations that these took, not yet charged to anyone
        self.check()
        if len(shape) == 3 and takes_pictures(model):
            self.layout = torch.channels_last

    def check(self) -> None:
        """Raises ValueError for a module on another device, or with a batch norm in training."""
        if isinstance(self.model, nn.Module):
            _check_module(self.model, self.device)

    def __call__(self, images: Tensor, compiled: bool = False) -> Tensor:
        """Outputs (S, ...) of float32 images (S, C, H, W); to be called under torch.no_grad().

        They are the caller's to keep: a model may return the same memory at each call, or a part of
        what it was given. compiled: by the form that `compile` has made.
        """
        logits = self._logits(images, compiled)
        self.compare(images, logits, compiled)
        return logits

    def compare_from(self, ranges: Tensor) -> None:
        """From now on batches are compared; ranges (K,) of logits over images, as `same` takes."""
        self._ranges = ranges

    def compare(self, images: Tensor, logits: Tensor, compiled: bool) -> None:
        """ValueError where a batch larger than any before gave images other logits than few give.

        SPREAD of its images are judged again among themselves, from its first to its last. Where
        one differs so are its neighbours: a draw at the edge of a step may go either way by
        rounding, and not both. Not within the recording of a CUDA graph, which is made of a batch
        that was compared before.
        """
        n = len(images)
        if self._ranges is None or n <= max(self._compared, SPREAD):
            return
        if images.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        self._compared = n
        # in integers: a default type of half precision would round places
        places = torch.arange(SPREAD, device=images.device) * (n - 1) // (SPREAD - 1)
        for at in (places, torch.where(places < n // 2, places + 1, places - 1)):
            with torch.no_grad():
                few = self._logits(images[at].contiguous(memory_format=self.layout), compiled)
            self._comparisons += SPREAD
            if same_at_other_size(columns(logits[at].detach()), columns(few), self._ranges):
                return
        raise ValueError(
            "model must judge each image by itself, its answer depended on how many images were in "
            f"the batch: {SPREAD} of {n} were given other logits by themselves"
        )

    def compared_since(self) -> int:
        """Evaluations of comparisons since this was last asked."""
        spent, self._comparisons = self._comparisons, 0
        return spent

    def _logits(self, images: Tensor, compiled: bool) -> Tensor:
        n = len(images)
        images = images.to(self.dtype)
        forward = self._compiled if compiled else self.eager
        assert forward is not None
        if compiled and n < SMALLEST_COMPILED:
            fill = images[-1:].expand(SMALLEST_COMPILED - n, -1, -1, -1)
            images = torch.cat([images, fill]).contiguous(memory_format=self.layout)
        try:
            answer = forward(self.shaped(images))
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            given = f"{tuple(self.shaped(images).shape)} in {images.dtype}"
            read = ""
            if len(self.shape) != 3:
                read = f" (x was read as a batch of inputs of shape {tuple(self.shape)})"
            raise ModelError(
                f"model must take inputs {given}, failed with {type(error).__name__}: {error}{read}"
            ) from error
        return self._checked(answer, len(images))[:n].clone()

    def shaped(self, images: Tensor) -> Tensor:
        """Images (S, C, H, W) of the engine as the inputs (S, *shape) of the model."""
        return images if images.shape[1:] == self.shape else images.reshape(-1, *self.shape)

    def _checked(self, answer: Any, n: int) -> Tensor:
        if self.error is None:
            return _checked_logits(answer, n)
        outputs = _checked_outputs(answer, n)
        self.error.check_outputs(outputs)
        return outputs

    def spare_inputs(self, images: Tensor) -> Tensor:
        """The model's answer; from now on it is given copies if it writes to what it is given."""
        given = images.clone()
        before = given._version
        logits = self(given)
        if given._version != before or not torch.equal(given, images):
            model = self.model
            self.eager = lambda images: model(images.clone())
            self.notes.append("the model writes to its input: it was given copies")
        return logits

    def choose_layout(self, images: Tensor) -> int:
        """Fall back to contiguous images when the model cannot take channels_last ones.

        Returns how often they were evaluated.
        """
        if self.layout is torch.contiguous_format:
            return 0
        try:
            self(images.clone(memory_format=self.layout))
        except RuntimeError as error:
            self.layout = torch.contiguous_format
            self(images.clone())  # an error that has another cause comes up again here
            self.notes.append(f"images are contiguous, as channels_last failed: {error}")
        return 1

    def pays(self, planned: float, image: Tensor) -> bool:
        """Whether `planned` evaluations, on a CPU, are worth compiling a module for.

        The rule counts operations, not seconds, so that it decides alike on every machine.
        """
        if planned <= 0 or self.device.type != "cpu" or not isinstance(self.model, nn.Module):
            return False
        if self._flops is None:
            self._flops = self._count_flops(image)
        return planned * self._flops > COMPILE_FLOPS

    def compile(self, image: Tensor, batch: int, must: bool) -> tuple[bool, float]:
        """(whether there is a compiled form, seconds spent on it now).

        batch: images to compile with, a full batch: smaller ones then need no compilation of their
        own. must: an error is raised, not noted.
        """
        if self._compiled is not None or (self._compile_failed and not must):
            return self._compiled is not None, 0.0
        options: dict[str, Any] | None = {"freezing": True} if self.device.type == "cpu" else None
        start = time.perf_counter()
        self._compiled = torch.compile(self.eager, dynamic=True, options=options)
        images = image.expand(max(batch, 2 * SMALLEST_COMPILED), -1, -1, -1)
        try:
            self._logits(images.contiguous(memory_format=self.layout), compiled=True)
        except Exception as error:
            self._compiled, self._compile_failed = None, True
            if must:
                raise
            self.notes.append(f"not compiled, as that failed: {type(error).__name__}: {error}")
        return self._compiled is not None, time.perf_counter() - start

    def forget_compiled(self) -> None:
        """The model has changed: what was compiled holds its old parameters."""
        self._compiled = self._compiled_gradients = None
        self._compile_failed = False
        self._ranges, self._compared = None, 0

    def with_gradients(self, compiled: bool) -> Model:
        """The model as attacks call it: its answers carry gradients."""
        if not compiled:
            return self.eager
        if self._compiled_gradients is None:
            self._compiled_gradients = torch.compile(self.eager, dynamic=True)
        return self._compiled_gradients

    def _count_flops(self, image: Tensor) -> int:
        from torch.utils.flop_counter import FlopCounterMode  # imports triton where there is one

        with FlopCounterMode(display=False) as counter:
            self(image)
        return counter.get_total_flops()


def class_of(logits: Tensor) -> Tensor:
    """The class that each row of logits (S, K) names, int64 (S,): that of its largest logit.

    -1 where one is NaN or several are the largest: such a row names no class.
    """
    most, named = logits.max(1)  # NaN where one is, and nothing equals it
    alone = (logits == most[:, None]).sum(1) == 1
    return torch.where(alone, named, -1)


def likeliest(logits: Tensor) -> Tensor:
    """A class for every row: of equal logits the lowest, NaN left out."""
    return logits.masked_fill(logits.isnan(), -torch.inf).argmax(1)


def _check_module(model: nn.Module, device: torch.device) -> None:
    modules, parameters, _ = tensors_of(model)
    training = any(module.training and isinstance(module, BATCH_NORMS) for module in modules)
    if not training and all(parameter.device == device for parameter in parameters):
        return
    for name, parameter in model.named_parameters():
        if parameter.device != device:
            raise ValueError(
                f"model and x must be on one device: parameter {name!r} was on "
                f"{parameter.device}, x on {device}"
            )
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and module.training:
            raise ValueError(
                f"model must be in evaluation mode, its batch norm {name!r} was in training "
                "mode: call model.eval()"
            )


def _checked_outputs(answer: Any, n: int) -> Tensor:
    """Outputs of any shape (S, ...), for a criterion other than "top1"."""
    outputs = getattr(answer, "logits", answer)
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        was = outputs.dtype if isinstance(outputs, Tensor) else type(outputs).__name__
        raise TypeError(f"model must return a floating-point tensor, returned {was}")
    if outputs.ndim == 0 or outputs.shape[0] != n or (n and outputs.numel() == 0):
        raise ValueError(
            f"model must return outputs (S, ...), one row for each of {n} inputs, returned shape "
            f"{tuple(outputs.shape)}"
        )
    return outputs.detach()


def _checked_logits(answer: Any, n: int) -> Tensor:
    logits = getattr(answer, "logits", answer)
    if not isinstance(logits, Tensor):
        raise TypeError(
            "model must return a tensor of logits, or an object with .logits, "
            f"returned {type(logits).__name__}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"model must return floating-point logits, returned {logits.dtype}")
    if logits.ndim != 2 or logits.shape[0] != n or logits.shape[1] < 2:
        one = logits.shape in ((n,), (n, 1))
        hint = ": for one logit give Engine(model, error=OneLogit())" if one else ""
        raise ValueError(
            f"model must return logits (S, K), one row for each of {n} inputs and K at least 2, "
            f"returned shape {tuple(logits.shape)}{hint}"
        )
    return logits.detach()
