"""Batches, the schedule, and what each recipe does to a batch."""

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import kstest
from torch import nn
from torch.nn import functional as F
from training_data import Narrow, toy

from robustcore import training
from robustcore.kernels import select
from robustcore.training.batches import Batches
from robustcore.training.judge import Judge
from robustcore.training.recipes import Tools, attacked
from robustcore.training.schedule import rate
from robustcore.training.settings import Settings
from robustcore.training.world import World

CPU = torch.device("cpu")


def tools(losses=None, seed=0):
    return Tools(select(None, CPU), losses, seed)


def batch(size=64, epoch=0, step=0, rank=0, world=1, images=320):
    return Batches(toy(images), size, 5, CPU, rank, world).epoch(epoch)[step]


# -- schedule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 5, 40, 1950])
def test_one_cycle_is_torchs_to_the_bit(steps):
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.3, total_steps=steps, pct_start=0.15, cycle_momentum=False,
        div_factor=10, final_div_factor=1e4,
    )  # fmt: skip
    for step in range(steps):
        assert rate("one-cycle", step, steps, 0.3) == optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()


def test_cosine_falls_from_the_peak_to_nothing():
    found = [rate("cosine", step, 10, 0.2) for step in range(10)]
    assert found[0] == 0.2
    assert found[5] == pytest.approx(0.1)
    assert all(a > b > 0 for a, b in pairwise(found))


def test_settings_find_the_cycle_of_an_epoch():
    chosen = Settings((2, 3), (0.3, 0.1), "cosine", 8, 0.0, 0, "float32")
    assert [chosen.rate(epoch, 0, 4) for epoch in (0, 2)] == [0.3, 0.1]
    assert chosen.rate(1, 2, 4) == rate("cosine", 6, 8, 0.3)


# -- batches -------------------------------------------------------------------------------------


def test_batches_are_crops_of_the_padded_images_and_each_image_comes_once():
    data, seen = toy(), []
    padded = F.pad(data.x, (2, 2, 2, 2))
    epoch = Batches(data, 64, 5, CPU).epoch(3)
    for step in range(len(epoch)):
        one = epoch[step]
        seen += one.ids.tolist()
        assert torch.equal(one.labels, data.y[one.ids])
        for image, index in zip(one.images[:8], one.ids[:8], strict=True):
            found = (image.permute(2, 0, 1) * 255).round().byte()
            windows = padded[index].unfold(1, 8, 1).unfold(2, 8, 1).permute(1, 2, 0, 3, 4)
            either = torch.stack([found, found.flip(2)])
            assert any(bool((windows == side).all((2, 3, 4)).any()) for side in either)
    assert sorted(seen) == list(range(320))
    whole = [one.images.flip(2) for one in epoch]
    assert len(whole) == 5


def test_epochs_differ_and_come_again():
    assert torch.equal(batch(epoch=1).images, batch(epoch=1).images)
    assert not torch.equal(batch(epoch=1).images, batch(epoch=2).images)


@pytest.mark.parametrize(
    "recipe", [training.Natural(), training.Gaussian(0.3), training.Gaussian(0.3, half=True)]
)
def test_processes_make_the_batch_of_one(recipe):
    whole = recipe(batch(), tools())
    parts = [recipe(batch(rank=rank, world=4), tools()) for rank in range(4)]
    assert torch.equal(torch.cat(parts), whole)


def test_without_augmentation_images_are_as_they_are():
    plain = toy()
    plain = training.Data("plain", plain.x, plain.y, plain.x_test, plain.y_test)
    one = Batches(plain, 32, 0, CPU).epoch(0)[0]
    assert torch.equal(one.images.permute(0, 3, 1, 2), plain.x[one.ids].float() / 255)


# -- Gaussian ------------------------------------------------------------------------------------


def test_gaussian_noise_has_a_uniform_sigma_for_each_example():
    """Two Kolmogorov-Smirnov tests; together they fail a right program once in 10,000."""
    recipe, levels, normals = training.Gaussian(0.4), [], []
    for step in range(20):
        one = batch(step=step, images=64 * 20)
        out = recipe(one, tools())
        sigma = recipe.sigma(one)
        levels.append(sigma / 0.4)
        normals.append(((out - one.images) / sigma[:, None, None, None])[sigma > 0.05])
        assert out.min() < 0 or out.max() > 1  # not clipped
    assert kstest(torch.cat(levels).numpy(), "uniform").pvalue > 5e-5
    z = torch.cat(normals).flatten()[:100_000].double().numpy()
    assert kstest(z, "norm").pvalue > 5e-5
    assert kstest(z * 1.05, "norm").pvalue < 5e-5  # the test sees 5 %


def test_half_of_a_batch_stays_clean():
    one = batch()
    out = training.Gaussian(0.4, half=True)(one, tools())
    clean = (out == one.images).flatten(1).all(1)
    assert torch.equal(clean, one.place % 2 == 1)


def test_noise_follows_seed_and_epoch():
    recipe, one = training.Gaussian(0.4), batch()
    first = recipe(one, tools(seed=1))
    assert torch.equal(first, recipe(one, tools(seed=1)))
    assert not torch.equal(first, recipe(one, tools(seed=2)))


# -- adversarial ---------------------------------------------------------------------------------


def linear_losses(w):
    return lambda images, labels: (images * w).flatten(1).sum(1)


@pytest.mark.parametrize("steps", [1, 5, 20])
def test_an_attack_on_a_linear_loss_finds_its_optimum(steps):
    one = batch()
    w = torch.randn(8, 8, 3, generator=torch.Generator().manual_seed(0))
    recipe = training.Adversarial(0.1, steps=steps, step_size=0.25 if steps == 1 else None)
    found = recipe(one, tools(linear_losses(w)))
    best = (one.images + 0.1 * w.sign()).clamp(0, 1)
    torch.testing.assert_close(found, best, rtol=0, atol=1e-6)


def test_attacks_stay_in_ball_and_box_and_raise_the_loss():
    model = Narrow().eval()
    losses = lambda images, labels: F.cross_entropy(  # noqa: E731
        model(images.permute(0, 3, 1, 2)), labels, reduction="none"
    )
    one, kit = batch(), tools(losses)
    start = attacked(kit, one.images, one.labels, one.ids, eps=0.1, step=0.0, steps=1)
    few = training.Adversarial(0.1, steps=3)(one, kit)
    for points in (start, few):
        assert (points - one.images).abs().max() <= 0.1 + 1e-6
        assert points.min() >= 0
        assert points.max() <= 1
    assert not torch.equal(start, one.images)
    again = training.Adversarial(0.1, steps=3, restarts=4)(one, kit)
    with torch.no_grad():
        random, three, best = (losses(points, one.labels) for points in (start, few, again))
    assert random.mean() < three.mean()
    assert bool((best >= three - 1e-6).all())  # the first restart is that of `few`
    assert bool((best > three + 1e-6).any())


def test_ramp_grows_the_radius():
    recipe = training.Adversarial(0.1, steps=1, ramp=2.0)
    kit = tools(linear_losses(torch.ones(8, 8, 3)))
    size = [
        float((recipe(one, kit) - one.images).abs().max())
        for one in (batch(epoch=0), batch(epoch=1), batch(epoch=2))
    ]
    assert size == pytest.approx([0, 0.05, 0.1], abs=1e-6)


def judge(model, precision="float32"):
    chosen = Settings((1,), (0.1,), "cosine", 64, 0.0, 0, precision)
    return Judge(model, chosen, World(0, 1, CPU))


def test_the_judge_shares_memory_and_changes_nothing():
    torch.manual_seed(0)
    model = Narrow().train()
    found = judge(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one = batch()
    training.Adversarial(0.1, steps=2)(one, found.tools)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    images = one.images.permute(0, 3, 1, 2)
    model(images)  # moves the running statistics
    with torch.no_grad():
        model[0].weight.mul_(1.5)
        expected = model.eval()(images)
        assert torch.equal(found.model(images), expected)
    x, y = toy().x_test, toy().y_test
    assert found.robust_accuracy(x, y, 0.3, 5) <= found.accuracy(x, y)


def test_the_judge_takes_nan_for_no_answer():
    class Hole(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x), 2), torch.nan)

    x, y = toy().x_test, toy().y_test
    assert (y == 0).any()
    assert judge(Hole()).accuracy(x, y) == 0


def test_bfloat16_attacks_give_float32_images():
    one = batch()
    out = training.Adversarial(0.1, steps=2)(one, judge(Narrow(), "bfloat16").tools)
    assert out.dtype == torch.float32
    assert not torch.equal(out, one.images)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.Gaussian(0), "sigma_max must be positive"),
        (lambda: training.Adversarial(eps=-1), "eps must be positive"),
        (lambda: training.Adversarial(steps=0), "steps must be at least 1"),
        (lambda: training.Adversarial(restarts=0), "restarts must be at least 1"),
        (lambda: training.Adversarial(step_size=math.inf), "step_size must be positive and finite"),
        (lambda: training.Adversarial(ramp=-1), "ramp must be 0 or more"),
        (lambda: training.Adversarial(on_overfitting="x"), "on_overfitting must be one of fall"),
    ],
)
def test_bad_recipes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_a_compiled_run_agrees_with_an_eager_one(tmp_path):
    runs = [
        training.train(
            Narrow.seeded(), toy(), training.Adversarial(0.05, steps=2), out=tmp_path / str(on),
            epochs=1, lr=0.05, batch_size=64, device="cpu", compile=on, progress=False,
        )
        for on in (False, True)
    ]  # fmt: skip
    assert runs[1].card["compiled"]
    # 5 steps of float32; a sign step may flip where a gradient is near 0
    assert runs[1].history[0]["loss"] == pytest.approx(runs[0].history[0]["loss"], abs=1e-2)
