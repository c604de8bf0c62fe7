"""One run of training: network, optimizer, and a loop over epochs that can be left and resumed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from robustcore.training.averaging import average
from robustcore.training.batches import SEED_STRIDE, Batch, Batches
from robustcore.training.data import Data
from robustcore.training.judge import Judge, autocast, logits_of
from robustcore.training.recipes import Adversarial, Recipe
from robustcore.training.settings import Settings
from robustcore.training.world import World

COMPILE_FLOPS = 3e13  # on a CPU, compiling takes about as long as this much eager work
WATCHED, WATCH_STEPS = 256, 10  # images and steps of the watch on one-step training
FALLBACK_STEPS = 3
SHOWN = 20  # steps from one update of the bar's loss to the next; each waits for the device


class Trainer:
    """Trains `model` on `data`; `epoch` counts the epochs done. See `robustcore.training.train`."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        recipe: Recipe,
        settings: Settings,
        world: World,
        compile: bool | None,
    ) -> None:
        self.data, self.recipe, self.settings, self.world = data, recipe, settings, world
        self.device = world.device
        self.model = model.to(self.device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.judge = Judge(self.model, settings, world)
        self.judge.check(data.x, 1 + max(int(data.y.max()), int(data.y_test.max())))
        self.optimizer = _optimizer(self.model, settings)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=settings.precision == "float16"
        )
        self.batches = Batches(
            data, settings.batch_size, settings.seed, self.device, world.rank, world.size
        )
        self.epoch = 0
        self.history: list[dict[str, Any]] = []
        self.ends: list[dict[str, Tensor]] = []  # weights at the end of each cycle
        self.notes: list[str] = []
        self.best_watched, self.fell_back, self.stopped = 0.0, False, False
        self.learner: nn.Module = self.model
        if world.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.learner = DistributedDataParallel(self.model, device_ids=ids)
        self.automatic = compile is None
        self.compiled = self._worth_compiling() if compile is None else bool(compile)
        self.loss: Callable[[Tensor, Tensor], Tensor] = self._eager_loss
        if self.compiled:
            self.loss = torch.compile(self._eager_loss)
            self.judge.losses = torch.compile(self.judge.eager_losses)

    # -- the loop ----------------------------------------------------------------------------

    def run(self, save: Callable[[], object], progress: bool | None) -> None:
        """Train to the end, calling save() after each epoch."""
        steps, total = self.batches.steps, self.settings.total
        quiet = not self.world.leads or progress is False
        bar = tqdm(
            total=total * steps,
            initial=self.epoch * steps,
            unit=" steps",
            disable=True if quiet else None if progress is None else False,
        )
        tell = (lambda text: None) if quiet else tqdm.write
        start, done = time.perf_counter(), 0
        gpu = self.device.index
        if gpu is None and self.device.type == "cuda":
            gpu = torch.cuda.current_device()
        with bar, torch.random.fork_rng(devices=[] if gpu is None else [gpu]):
            while self.epoch < total and not self.stopped:
                before = copy.deepcopy(self.state()) if self._watching() else None
                line = self._train_epoch(bar)
                done += 1
                if before is not None and self._broke_down(line):
                    self._recover(before)
                    tell(self.notes[-1])
                    bar.update(-steps)
                    save()
                    continue
                self.epoch += 1
                self.history.append(line)
                if self.epoch in self.settings.ends:
                    weights = self.model.state_dict().items()
                    self.ends.append({k: v.cpu().clone() for k, v in weights})
                save()
                seconds = time.perf_counter() - start
                tell(self._report(line, seconds, seconds / done * (total - self.epoch)))

    @property
    def averages(self) -> bool:
        return self.settings.average and len(self.ends) > 1

    def average(self) -> None:
        """Take the mean of the weights at the ends of the cycles."""
        images = (
            self.recipe(batch, self.judge.tools).permute(0, 3, 1, 2)
            for batch in self.batches.in_order(self.settings.total)
        )
        average(self.model, self.ends, images)

    def _train_epoch(self, bar: Any) -> dict[str, Any]:
        # for models that draw, as dropout does: the same draws when the epoch is done again
        seed = self.settings.seed * SEED_STRIDE + self.epoch
        torch.manual_seed(seed * self.world.size + self.world.rank)
        begin = time.perf_counter()
        epoch = self.batches.epoch(self.epoch)
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for step in range(len(epoch)):
            total += self._step(epoch[step], step)
            bar.update()
            if not bar.disable and step % SHOWN == SHOWN - 1:
                bar.set_postfix_str(f"loss {float(total) / (step + 1):.4f}", refresh=False)
        loss = float(self.world.total(total)) / len(epoch) / self.world.size
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the loss became {loss} in epoch {self.epoch + 1}: a smaller lr may help; "
                "the checkpoint is that of the epoch before"
            )
        self.world.agree(self.model)
        return {
            "epoch": self.epoch + 1,
            "loss": loss,
            "test_accuracy": self.judge.accuracy(self.data.x_test, self.data.y_test),
            "seconds": round(time.perf_counter() - begin, 1),
        }

    def _step(self, batch: Batch, step: int) -> Tensor:
        rate = self.settings.rate(self.epoch, step, self.batches.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._forward(batch)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()

    def _forward(self, batch: Batch) -> Tensor:
        try:
            images = self.recipe(batch, self.judge.tools)
            return self.loss(images.permute(0, 3, 1, 2), self.recipe.targets(batch))
        except Exception as error:
            if not (self.compiled and self.automatic):
                raise
            self.notes.append(f"not compiled, as that failed: {type(error).__name__}")
        self.compiled = False
        self.loss, self.judge.losses = self._eager_loss, self.judge.eager_losses
        return self._forward(batch)

    def _eager_loss(self, images: Tensor, targets: Tensor) -> Tensor:
        with autocast(self.settings, self.device):
            logits = logits_of(self.learner(images))
        return self.recipe.loss(logits.float(), targets)

    def _worth_compiling(self) -> bool:
        """By count of operations of the whole run, so that a resumed run decides alike."""
        images = self.settings.total * len(self.data.x)
        return (
            self.device.type == "cpu" and 3 * images * self.judge.flops(self.data.x) > COMPILE_FLOPS
        )

    def _report(self, line: dict[str, Any], seconds: float, left: float) -> str:
        watched = f"  under attack {line['watched']:.4f}" if "watched" in line else ""
        return (
            f"epoch {self.epoch:3d}/{self.settings.total}  loss {line['loss']:.4f}  "
            f"test accuracy {line['test_accuracy']:.4f}{watched}  {seconds:.0f} s, "
            f"{left:.0f} s left"
        )

    # -- the watch on one-step training --------------------------------------------------------

    def _watching(self) -> bool:
        recipe = self.recipe
        return (
            isinstance(recipe, Adversarial)
            and recipe.steps == 1
            and recipe.on_overfitting != "ignore"
        )

    def _broke_down(self, line: dict[str, Any]) -> bool:
        """Measure the accuracy under many steps, on the first training images."""
        assert isinstance(self.recipe, Adversarial)
        x, y = self.data.x[:WATCHED], self.data.y[:WATCHED]
        line["watched"] = self.judge.robust_accuracy(x, y, self.recipe.eps, WATCH_STEPS)
        best = self.best_watched
        self.best_watched = max(best, line["watched"])
        return broke_down(line["watched"], best, len(x))

    def _recover(self, before: dict[str, Any]) -> None:
        """Back to the state before the epoch, with more steps from there or no more epochs."""
        assert isinstance(self.recipe, Adversarial)
        fall_back = self.recipe.on_overfitting == "fall back"
        what = f"done again with {FALLBACK_STEPS} steps" if fall_back else "training stopped"
        before["fell_back"], before["stopped"] = fall_back, not fall_back
        before["notes"].append(f"one-step training broke down in epoch {self.epoch + 1}: {what}")
        self.load(before)

    # -- state -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "epoch": self.epoch,
            "history": self.history,
            "ends": self.ends,
            "notes": self.notes,
            "best_watched": self.best_watched,
            "fell_back": self.fell_back,
            "stopped": self.stopped,
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        for name in ("epoch", "history", "ends", "notes", "best_watched", "fell_back", "stopped"):
            setattr(self, name, state[name])
        if self.fell_back and isinstance(self.recipe, Adversarial):
            self.recipe = replace(self.recipe, steps=FALLBACK_STEPS, step_size=None)


def broke_down(accuracy: float, best: float, images: int) -> bool:
    """Whether an accuracy under many steps fell to under half of the best before it.

    It must also lie 4 standard errors of `best`, on this many images, below it.
    """
    error = math.sqrt(best * (1 - best) / images)
    return accuracy < best / 2 and accuracy < best - 4 * error


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.SGD:
    """SGD with Nesterov momentum 0.9; weight decay on matrices and kernels alone."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    decay = [p for p in learnt if p.ndim > 1]
    plain = [p for p in learnt if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decay, "weight_decay": settings.weight_decay},
        {"params": plain},
    ]
    return torch.optim.SGD(
        groups,
        lr=settings.lr[0],
        momentum=0.9,
        nesterov=True,
    )
