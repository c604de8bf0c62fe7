"""The watch on one-step adversarial training, which can break down within an epoch."""

import pytest
import torch
from training_data import SMALL, Interrupted, same, toy

from robustcore import training
from robustcore.training import files
from robustcore.training.trainer import broke_down

pytestmark = pytest.mark.usefixtures("toy_networks")


def test_broke_down_needs_half_of_the_best_lost_and_more_than_chance():
    assert broke_down(0.05, 0.4, 256)
    assert not broke_down(0.25, 0.4, 256)
    assert not broke_down(0.05, 0.12, 256)  # within 4 standard errors of 0.02
    assert not broke_down(0.0, 0.0, 256)


@pytest.mark.parametrize("reaction", ["fall back", "stop", "ignore"])
def test_one_step_training_that_breaks_down(tmp_path, monkeypatch, reaction):
    """The watch is told 0.6 after the first epoch, 0 after the second."""
    answers = iter([0.6, 0.0, 0.0, 0.0])
    monkeypatch.setattr(
        "robustcore.training.judge.Judge.robust_accuracy", lambda *arguments: next(answers)
    )
    steps = []
    attack = training.Adversarial.__call__

    def watched(self, batch, tools):
        steps.append((batch.epoch, self.steps))
        return attack(self, batch, tools)

    monkeypatch.setattr(training.Adversarial, "__call__", watched)
    recipe = training.Adversarial(0.05, steps=1, on_overfitting=reaction)
    found = training.train("narrow", toy(), recipe, out=tmp_path, average=False, **SMALL)
    epochs = [line["epoch"] for line in found.history]
    ran = sorted(set(steps))
    if reaction == "ignore":
        assert (epochs, ran, found.card["notes"]) == ([1, 2, 3], [(0, 1), (1, 1), (2, 1)], [])
        return
    assert "one-step training broke down in epoch 2" in found.card["notes"][0]
    state = torch.load(tmp_path / files.CHECKPOINT, weights_only=True)
    if reaction == "stop":
        assert (epochs, ran) == ([1], [(0, 1), (1, 1)])
        assert same(state["model"], found.model.state_dict())
    else:
        assert (epochs, ran) == ([1, 2, 3], [(0, 1), (1, 1), (1, 3), (2, 3)])
        assert "done again with 3 steps" in found.card["notes"][0]


def test_an_interrupted_run_that_fell_back_ends_in_the_same_weights(tmp_path, monkeypatch):
    recipe = training.Adversarial(0.05, steps=1)
    results = []
    for name, cut in (("whole", None), ("cut", 25)):
        answers, calls = iter([0.6, 0.0, 0.5]), []
        attack = training.Adversarial.__call__

        def counted(self, batch, tools, cut=cut, calls=calls, attack=attack):
            calls.append(self.steps)
            if len(calls) == cut:
                raise Interrupted
            return attack(self, batch, tools)

        with monkeypatch.context() as patch:
            patch.setattr(
                "robustcore.training.judge.Judge.robust_accuracy",
                lambda *arguments, answers=answers: next(answers),
            )
            patch.setattr(training.Adversarial, "__call__", counted)
            if cut is not None:
                with pytest.raises(Interrupted):
                    training.train("narrow", toy(), recipe, out=tmp_path / name, **SMALL)
                assert calls[-1] == 3
            results.append(training.train("narrow", toy(), recipe, out=tmp_path / name, **SMALL))
    assert same(results[0].model.state_dict(), results[1].model.state_dict())
    assert results[0].card["notes"] == results[1].card["notes"] != []
