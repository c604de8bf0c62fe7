"""The engine: many perturbed copies of a few images, through the model in full batches, counted.

Rounds of slots (robustcore.rounds) are perturbed, judged, and reduced to margins or counts on the
device. Draws are named by (seed, stream, image id, sample).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustcore import inputs
from robustcore import noise as laws
from robustcore.agreement import columns, ranges_of, same, same_at_other_size
from robustcore.batches import Graph, Slots
from robustcore.engine import Engine, Interval
from robustcore.errors import Criterion
from robustcore.fused import Fused
from robustcore.network import Model, class_of, likeliest
from robustcore.noise import Noise
from robustcore.precision import Coarse
from robustcore.rounds import Rounds
from robustcore.streams import Stream
from robustcore.warning import warn

PROBE = 4  # images of a batch with which a model is probed: one of them, and three with noise
PROBE_NOISE = (0.25, 1.0, 4.0)  # of these three, in units of the range of all pixels


def given_answers(error: Criterion | None, y: Any, n: int, device: torch.device) -> Tensor | None:
    """The right answers (n, ...) that the caller gives, checked; None where y is None."""
    if y is None:
        return None
    return inputs.labels(y, n, device) if error is None else error.answers(y, n, device)


def predicted_answers(error: Criterion | None, outputs: Tensor) -> Tensor:
    """The answers (S, ...) that the model gives itself, for a caller who gives none."""
    return likeliest(outputs) if error is None else error.predicted(outputs)


def logits_and_classes(
    error: Criterion | None, outputs: Tensor, answers: Tensor
) -> tuple[Tensor, Tensor]:
    """(logits (S, K), the class (S,) that must be the largest of them for the model to be right).

    Raises ValueError for answers that outputs cannot give.
    """
    if error is None:
        inputs.labels_within(answers, outputs.shape[1])
        return outputs, answers
    error.check_answers(answers, outputs)
    right = torch.zeros(len(outputs), dtype=torch.int64, device=outputs.device)
    return error.logits(outputs, answers), right


def recorded_labels(answers: Tensor) -> Tensor:
    """(S,) int64 for records: -1 where the answers are not class indices."""
    if answers.ndim == 1 and not answers.is_floating_point():
        return answers.long()
    return torch.full((len(answers),), -1, dtype=torch.int64, device=answers.device)


class RandomizedModelWarning(UserWarning):
    """The model's answer to one input varies from call to call."""


class Evaluator(Rounds):
    """An engine on the images of one measurement.

    x is one image or a batch in any floating type: noise is added in float32, and the sum is
    handed to the model in the type of its parameters, or in x's where they share one. y None takes
    the model's own labels. `planned` is the number of evaluations to come; it decides whether
    compilation pays (compile=None). box: (low, high) within which all images lie that the model
    will see; None: where noise is clipped, or anywhere. exact: no lower precision, whatever the
    engine was asked for.

    After construction: `answers` (B, ...) right outputs, `y` and `labels` (B,) int64, `n_classes`,
    `clean_margins` (B,) float64, `randomized`, `n_forward` (B,) int64 evaluations spent so far on
    each image, `notes`; `fused`, the network in one kernel with its noise, where it is small enough
    to be one (robustcore.fused), or None; `compiled`, whether the compiled form of the model is
    used.

    Cost: one evaluation of each image, and for an engine that is new 14 to see that the model is a
    function of each image by itself: three batches of PROBE images, one alone, and one to choose a
    memory format. Four more whenever a batch is larger than all before: some of its images are
    judged again among four. Within a set that is cut into blocks these are not counted. Evaluations
    that serve only to compile or to record the model are not counted either.
    """

    def __init__(
        self,
        model: Model | Engine,
        x: Tensor,
        y: Any = None,
        *,
        ids: Any = None,
        seed: int = 0,
        stream: int = 0,
        noise: Noise | None = None,
        box: Interval | None = None,
        planned: int = 0,
        exact: bool = False,
    ) -> None:
        self.engine = engine = Engine.of(model)
        batch = engine.images(x)
        n = len(batch)
        device = inputs.float64(batch.device)
        self.x = inputs.as_pictures(batch.float())
        self.ids = inputs.identifiers(ids, n, device)
        answers = given_answers(engine.error, y, n, device)
        self.seed = inputs.integer("seed", seed, 0, 2**63 - 1)
        self.stream = stream
        self.noise = laws.of(noise)
        self.noise.check_clip(self.x)
        self.box = self.noise.clip if box is None else box
        engine.bind(batch)
        self.device, self.dtype = device, batch.dtype
        self.kernels, self.network = engine.setup.kernels, engine.setup.network
        self.usual_batch = engine.setup.usual_batch
        self.noise.check(self.kernels, self.x, self.ids, self.network.shape)
        self.n_forward = np.zeros(n, np.int64)
        self.notes = list(engine.notes)
        self.answers: Tensor | None = None  # until outputs for the images are known
        self.fused: Fused | None = None
        self.coarse: Coarse | None = None if exact else engine.coarse()
        self.compiled, self.compile_seconds = False, 0.0
        self._graph: Graph | None = None
        self._images: Tensor | None = None
        with torch.no_grad():
            self._start(answers, planned)
        self.notes += self.network.notes

    def _start(self, answers: Tensor | None, planned: int) -> None:
        """Clean outputs; answers where none were given; is the model a function of its input?"""
        setup = self.engine.setup
        if not setup.complete:
            self.n_forward[0] += self.network.choose_layout(self.x[:1])
        coarse, self.coarse = self.coarse, None
        outputs = self._clean()
        if bool(outputs.isnan().all()):
            raise ValueError("model must return logits, returned NaN alone for every image in x")
        logits = self._judge(outputs, answers)
        rows = torch.arange(len(self.x), device=self.device)
        margins = self.kernels.margins(logits, self.y, rows)
        self.clean_margins = margins[0].double().cpu().numpy()

        if self.box not in setup.probes:
            setup.probes[self.box] = self._probe(columns(outputs))
        self.randomized, noisy = setup.probes[self.box]
        ranges = ranges_of(torch.cat([columns(outputs), noisy]))
        if not self.randomized:
            self.network.compare_from(ranges)
        setup.complete = True
        if self.engine.within_set:  # which block meets a new engine is chance: none pays for it
            self.n_forward.fill(1)
        if self.randomized:
            if coarse is not None:
                raise ValueError(
                    f"precision must be left out for a randomised model, was {coarse.name!r}"
                )
            message = "the model's answer to one input varies from call to call"
            self.notes.append(message)
            warn(message, RandomizedModelWarning)
        else:
            self.fused = self.engine.fused_for(self.noise, self.x, outputs, ranges)
        if self.fused is not None:
            self.notes.append(self.fused.note)
            return
        if coarse is not None:
            self.coarse = coarse
            self.notes.append(coarse.note)
            planned = 0  # compiling would help the few draws in doubt alone
        self.compiled, self.compile_seconds = self.engine.compiled_for(
            planned, self.formatted(self.x)
        )

    def _judge(self, outputs: Tensor, answers: Tensor | None) -> Tensor:
        """Logits of the images; sets `answers`, `y`, `labels` and `n_classes`.

        y is the class that kernels compare with the other logits, labels the class in records: the
        same for "top1". For other criteria y is 0, and labels are -1 where answers are not classes.
        """
        error = self.engine.error
        self.answers = predicted_answers(error, outputs) if answers is None else answers
        logits, self.y = logits_and_classes(error, outputs, self.answers)
        if error is not None:
            error.check_margins(outputs, self.answers)
        self.labels = recorded_labels(self.answers)
        self.n_classes = logits.shape[1]
        return logits

    def _clean(self) -> Tensor:
        """Outputs for the images, by the model as it is."""
        rows = np.arange(len(self.x))
        clean: list[Tensor] = []
        self.run(
            self.table(rows, np.zeros(len(rows)), rows),
            lambda logits, _: clean.append(logits.clone()),
        )
        self.n_forward += 1
        return torch.cat(clean)

    def _probe(self, clean: Tensor) -> tuple[bool, Tensor]:
        """(whether the model is randomised, its logits of an image in much noise).

        ValueError where an image's answer depends on the rest of its batch.

        One image is evaluated among copies of itself, and twice among others that noise has moved
        far beyond the range of any image: whatever a model computes over a whole batch, its
        largest pixel, its mean, its order, then changes. It is the image of the least range, for
        which that matters most. Batches of one size are compared, so that the same algorithm
        computes both; batches of other sizes (all images, and one of the others alone) within the
        rounding of another algorithm.
        """
        size = min(PROBE, self.batch_size)
        low, high = self.x.flatten(1).aminmax(dim=1)
        width = (high - low).masked_fill(clean.isnan().all(1), torch.inf)
        chosen = int(width.argmin())
        image = self.x[chosen : chosen + 1]
        span = float(high.max() - low.min()) or 1.0
        sigma = span * np.array(PROBE_NOISE[-max(1, size - 1) :])
        others = np.arange(len(sigma)) % len(self.x)
        mixed = torch.cat([self._with_probe_noise(others, sigma), image])[:size]
        among = columns(self.network.spare_inputs(self.formatted(mixed)))
        again = columns(self.network(self.formatted(mixed)))
        np.add.at(self.n_forward, others, 2)
        ranges = ranges_of(torch.cat([clean, among[:1]]))
        randomized = not same(among, again, ranges)
        if size == 1:
            return randomized, among[:1]  # no batch ever holds a second image
        copies = columns(self.network(self.formatted(image.expand(size, -1, -1, -1))))
        alone = columns(self.network(self.formatted(mixed[:1])))
        self.n_forward[chosen] += 2 + size
        self.n_forward[others[0]] += 1
        answer = copies[-1:]
        itself = same(answer, among[-1:], ranges) and same(answer.expand_as(copies), copies, ranges)
        mine = torch.cat([answer, among[:1]])
        elsewhere = torch.cat([clean[chosen : chosen + 1], alone])
        if randomized or (itself and same_at_other_size(mine, elsewhere, ranges)):
            return randomized, among[:1]
        raise ValueError(
            "model must judge each image by itself, its answer depended on the other images "
            "in the batch: call model.eval()"
        )

    def _with_probe_noise(self, rows: np.ndarray, sigma: np.ndarray) -> Tensor:
        """Images with noise, within the bounds of what the model will see."""
        index = torch.as_tensor(rows, device=self.device)
        return self.kernels.perturb(
            self.x,
            index,
            torch.as_tensor(sigma, device=self.device).float(),
            torch.arange(len(rows), device=self.device),
            self.ids,
            self.x.new_empty((len(rows), *self.x.shape[1:])),
            seed=self.seed,
            stream=Stream.PROBE,
            clip=self.box,
        )

    # -- what methods call -------------------------------------------------------------------

    def margins(
        self,
        rows: np.ndarray,
        sigma: np.ndarray,
        samples: np.ndarray,
        progress: Callable[[int], object] = lambda evaluations: None,
    ) -> np.ndarray:
        """Margin of each slot, float64 (S,): the model is right where it is positive."""
        out = torch.full((len(rows),), torch.nan, dtype=torch.float64, device=self.device)

        def reduce(logits: Tensor, slots: Slots) -> None:
            out[slots.index] = self.kernels.margins(logits, self.y, slots.rows)[0].double()

        with torch.no_grad():
            self.run(self.table(rows, sigma, samples), reduce, progress)
        self.n_forward += np.bincount(rows, minlength=len(self.x))
        return out.cpu().numpy()

    def classes(self, rows: np.ndarray, sigma: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """The class that the model gives each slot, int64 (S,), -1 for a tie or a NaN."""
        out = torch.empty(len(rows), dtype=torch.int64, device=self.device)

        def reduce(logits: Tensor, slots: Slots) -> None:
            out[slots.index] = class_of(logits)

        with torch.no_grad():
            self.run(self.table(rows, sigma, samples), reduce)
        self.n_forward += np.bincount(rows, minlength=len(self.x))
        return out.cpu().numpy()

    def noisy(self, rows: Tensor, sigma: Tensor, samples: Tensor) -> Tensor:
        """The images of slots, (S, C, H, W) float32, as the model sees them: in x's type."""
        if self.fused is not None and self.fused.packed.draws == "features":
            raise ValueError("model must draw its noise in pixels where noisy images are wanted")
        out = self.formatted(self.x.new_empty((len(rows), *self.x.shape[1:])))
        self.noise.perturb(
            self.kernels,
            self.x,
            rows,
            sigma.float(),
            samples,
            self.ids,
            out,
            shape=self.network.shape,
            seed=self.seed,
            stream=self.stream,
        )
        return out.to(self.dtype).float()

    def answers_of(self, rows: Any) -> Tensor:
        """What is right for images rows, in the form of the caller's y."""
        assert self.answers is not None
        return self.answers[rows]

    def among(self, points: Tensor, rows: Tensor) -> Evaluator:
        """The same model with points (S, C, H, W) of images rows (S,) for its images.

        Nothing is evaluated or compiled again; evaluations count from 0, one entry for each point.
        """
        other = copy.copy(self)
        other.x, other.ids = points, torch.arange(len(rows), device=rows.device)
        other.answers = self.answers_of(rows)
        other.y, other.labels = self.y[rows], self.labels[rows]
        other.n_forward = np.zeros(len(rows), np.int64)
        other._graph = other._images = None
        return other

    def counts(
        self, sigma: np.ndarray, samples: int, progress: Callable[[int], object]
    ) -> np.ndarray:
        """Errors of each image at each sigma of a grid (G,), over samples 0 to `samples` - 1.

        Returns int64 (B, G). The draws of an image are the same at every sigma.
        """
        grid = torch.as_tensor(sigma, device=self.device).float()
        self.n_forward += samples * len(grid)
        if self.fused is not None:
            names = {"seed": self.seed, "stream": self.stream, "clip": self.noise.clip}
            return self.fused.counts(self.x, self.y, grid, self.ids, samples, progress, **names)
        labels = self.y.repeat_interleave(len(grid))
        counts = torch.zeros(len(labels), dtype=torch.int64, device=self.device)

        def slots(at: Tensor) -> Slots:
            cell = at // samples
            return Slots(at, cell // len(grid), grid[cell % len(grid)], at % samples)

        def reduce(logits: Tensor, slots: Slots) -> None:
            self.kernels.count_errors(logits, labels, slots.index // samples, counts)

        with torch.no_grad():
            self.run((len(labels) * samples, slots), reduce, progress)
        return counts.view(-1, len(grid)).cpu().numpy()
