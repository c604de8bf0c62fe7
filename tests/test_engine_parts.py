"""The engine by hand: batches, rounds, what its beginning costs, gains of every loss."""

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, Small, grey

import robustcore as rc
from robustcore import rounds
from robustcore.evaluator import Evaluator
from robustcore.gradients import Gradients, dlr_classes
from robustcore.rare.particles import Particles
from robustcore.rounds import in_rounds


@pytest.mark.parametrize(
    ("shape", "usual"),
    [((1, 1, 1), 8192), ((1, 28, 28), 256), ((3, 32, 32), 128), ((3, 224, 224), 4)],
)
def test_a_usual_batch_is_the_power_of_two_that_holds_393216_pixels_and_4_at_least(shape, usual):
    x = torch.full((1, *shape), 0.5)
    engine = Evaluator(lambda t: t.flatten(1).mean(1, keepdim=True) + torch.arange(2.0), x)
    assert engine.batch_size == engine.usual_batch == usual


def test_a_batch_that_is_asked_for_is_taken_up_to_that_of_a_round():
    x, y = grey(1)
    assert Evaluator(rc.Engine(HalfSpace(16, 0.5), batch_size=5), x, y).batch_size == 5
    assert Evaluator(rc.Engine(HalfSpace(16, 0.5), batch_size=10**9), x, y).batch_size == 2**22


@pytest.mark.parametrize(
    ("batch_size", "spent"),
    [
        # each once; images 0, 1 and 2 twice in noise; of the one of least range two among these,
        # and a batch of copies; the first noisy one alone
        (None, [1 + 2 + 1, 1 + 2, 1 + 2, 1 + 2 + 4]),
        (3, [1 + 2 + 1, 1 + 2, 1, 1 + 2 + 3]),
        (2, [1 + 2 + 1, 1, 1, 1 + 2 + 2]),
        (1, [1 + 2, 1, 1, 1]),
    ],
)
def test_the_beginning_of_an_engine_costs_what_is_said(batch_size, spent):
    x = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[3] = 0.5 + x[3] / 100
    y = torch.zeros(4, dtype=int)
    engine = Evaluator(rc.Engine(HalfSpace(16, 9.0), batch_size=batch_size), x, y)
    assert engine.n_forward.tolist() == spent
    before = engine.n_forward.copy()
    engine.counts(np.array([0.1, 0.2]), 30, lambda n: None)
    engine.margins(np.array([2, 2, 0]), np.ones(3), np.arange(3))
    engine.classes(np.array([1, 1, 0]), np.ones(3), np.arange(3))
    # a batch larger than those before is held against four of its images, on the first's account
    larger = 4 if batch_size is None else 0
    assert (engine.n_forward - before).tolist() == [62 + larger, 62, 62, 60]
    points = engine.among(torch.zeros(5, 1, 4, 4), torch.tensor([3, 3, 1, 0, 2]))
    assert points.n_forward.tolist() == [0] * 5
    assert points.ids.tolist() == [0, 1, 2, 3, 4]


def test_a_convolution_costs_one_more_for_the_choice_of_a_format():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = Small().eval()
    whole = Evaluator(plain, x).n_forward
    hidden = Evaluator(lambda t: plain(t), x).n_forward
    assert (whole - hidden).tolist() == [1, 0]


def test_rounds_hold_all_rows_at_some_draws(monkeypatch):
    monkeypatch.setattr(rounds, "ROUND", 10)
    rows = np.array([0, 2, 5])
    found = [(row.tolist(), draw.tolist()) for row, draw in in_rounds(rows, 3, 11)]
    assert [draw for _, draw in found] == [[3, 4, 5] * 3, [6, 7, 8] * 3, [9, 10] * 3]
    assert found[-1][0] == [0, 0, 2, 2, 5, 5]
    assert [row for row, _ in found[:2]] == [[0] * 3 + [2] * 3 + [5] * 3] * 2
    assert not list(in_rounds(rows, 4, 4))
    assert [len(row) for row, _ in in_rounds(np.arange(20), 0, 2)] == [20, 20]  # one draw at least
    assert not list(in_rounds(rows[:0], 0, 0))


class Tight(HalfSpace):
    """Runs out of memory above `most` images, where `when` says so."""

    def __init__(self, when, most):
        super().__init__(4, 0.3)
        self.when, self.most = when, most

    def forward(self, x):
        if self.when() and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(x)


def test_memory_that_runs_out_for_gradients_halves_the_batch():
    x, y = grey(5, (1, 1, 4))
    free = rc.distance_to_error(HalfSpace(4, 0.3), x, y, effort=20)
    tight = rc.distance_to_error(
        rc.Engine(Tight(torch.is_grad_enabled, 2), batch_size=16), x, y, effort=20
    )
    notes = [f"out of memory: batch size halved to {size}" for size in (8, 4, 2)]
    assert list(tight.provenance.notes) == notes
    np.testing.assert_allclose(tight.distance, free.distance, rtol=1e-5)
    assert tight.n_forward.tolist() == free.n_forward.tolist()
    with pytest.raises(torch.OutOfMemoryError):
        rc.distance_to_error(Tight(torch.is_grad_enabled, 0), x, y, effort=20)


def test_memory_that_runs_out_for_particles_halves_the_batch(monkeypatch):
    begun, begin = [], Particles.begin

    def noted(self, *arguments):
        begun.append(1)
        begin(self, *arguments)

    x, y = grey(3, (1, 1, 4))
    how = {"samples": 200, "second_look": False, "bridge": False}
    free = rc.error_curve(HalfSpace(4, 0.3), x, y, (0.1, 1e-3), **how)
    monkeypatch.setattr(Particles, "begin", noted)
    tight = Tight(lambda: len(begun), 40)
    found = rc.error_curve(rc.Engine(tight, batch_size=128), x, y, (0.1, 1e-3), **how)
    assert list(found.provenance.notes) == [
        f"out of memory: batch size halved to {size}" for size in (64, 32)
    ]
    np.testing.assert_allclose(found.sigma, free.sigma, rtol=1e-5)
    assert found.n_forward[1:].tolist() == free.n_forward[1:].tolist()  # the first pays for looks
    begun.clear()
    with pytest.raises(torch.OutOfMemoryError):
        rc.error_curve(Tight(lambda: len(begun), 0), x, y, (0.1, 1e-3), **how)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "target", "gain"),
    [
        ("margin", None, 1 - 2),
        ("ce", None, np.log(np.exp([1.0, 0, -1, -3]).sum()) - 2),
        ("dlr", None, (1 - 2) / (2 - 0)),  # over the first less the third
        ("margin", 3, -(2 - -1)),
        ("ce", 3, -(np.log(np.exp([2.0, 1, 0, -3]).sum()) + 1)),
        ("dlr", 3, -(2 - -1) / (2 - (0 - 1) / 2)),  # less the mean of the third and the fourth
    ],
)
def test_gains_of_every_loss_by_hand(loss, target, gain):
    x, y = grey(1)
    engine = Evaluator(HalfSpace(16, 0.5), x, y)
    targets = None if target is None else torch.tensor([target])
    gradients = Gradients(engine, targets, 2.0)
    rows = torch.zeros(1, dtype=int)
    rival = gradients.rival(rows, loss)
    assert (rival is None) == (loss != "dlr" or target is None)
    found = gradients._gain(LOGITS, rows, loss, rival)
    assert float(found) == pytest.approx(gain, rel=1e-9)
    assert dlr_classes(target is not None) == (4 if target else 3)
    if loss == "margin" and target is None:
        of_two = gradients._gain(LOGITS, rows, loss, torch.tensor([2]))
        best = gradients._gain(LOGITS, rows, loss, torch.tensor([-1]))
        assert [float(of_two), float(best)] == [-2, -1]


@pytest.mark.parametrize("model", [HalfSpace(16, 0.5), Slab(16, 0.5)])
def test_what_a_gradient_tells_holds_no_graph(model):
    _, y = grey(2)
    x = 0.4 + 0.2 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    gradients = Gradients(Evaluator(model, x, y), None, 2.0)
    gradient = torch.empty_like(gradients.x)
    margin, gain, label = gradients(torch.arange(2), gradients.x, gradient, "margin", None)
    assert not any(each.requires_grad for each in (margin, gain, label, gradient))
    np.testing.assert_allclose(gain, -margin, rtol=1e-6)
    assert (gradient.norm(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("logits", "margin"),
    [
        ([0.0, 0.0, 1.0], -1.0),  # the wanted class leads
        ([0.0, 2.0, 1.0], 1.0),
        ([0.0, 1.0, 1.0], float(torch.finfo(torch.float32).tiny)),  # a tie is not yet it
        ([torch.nan, 0.0, 1.0], torch.inf),
    ],
)
def test_only_the_wanted_class_is_an_error_and_no_tie(logits, margin):
    class Three(HalfSpace):
        def forward(self, x):
            two = super().forward(x)
            return torch.cat([two, two[:, 1:] - 1], 1)

    x, y = grey(1)
    gradients = Gradients(Evaluator(Three(16, 0.5), x, y), torch.tensor([2]), 2.0)
    found, label = gradients.judged(torch.zeros(1, dtype=int), torch.tensor([logits]))
    assert float(found) == margin
    assert label.tolist() == [2]


def test_an_image_with_some_logit_nan_may_be_the_one_that_is_probed_and_one_of_nan_alone_not():
    class Holes(HalfSpace):
        def forward(self, x):
            logits = super().forward(x)
            flat = (x.flatten(1).amax(1) - x.flatten(1).amin(1) < 1e-2)[:, None]
            return logits.masked_fill(flat & self.holes, torch.nan)

    x = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x[2] = 0.5 + x[2] / 1000
    y = torch.zeros(3, dtype=int)
    for holes, probed in (
        ([False, True], 2),
        ([True, True], int(np.ptp(x[:2].numpy(), (1, 2, 3)).argmin())),
    ):
        model = Holes(16, 9.0)
        model.holes = torch.tensor(holes)
        spent = Evaluator(model, x, y).n_forward - [1 + 2 + 1, 1 + 2, 1 + 2]
        assert spent.tolist() == [6 * (image == probed) for image in range(3)]
