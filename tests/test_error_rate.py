"""error_rate against theory, and the laws of splitting, permuting and batching.

Each statistical check would reject a right result with a probability of at most 1e-6; the seeds
are fixed, so each verdict is too.
"""

import numpy as np
import pytest
import torch
from models import HalfSpace, Slab, Small, grey
from scipy.stats import binomtest

import robustcore as rc

FALSE_ALARM = 1e-6
BACKENDS = ["reference", "native"]


def p_value(record, model):
    """Least p-value over the grid that the model's known rates gave these counts."""
    errors, samples = record.n_errors.sum(0), record.n_samples.sum(0)
    tests = (
        binomtest(int(e), int(n), float(model.rate(s)))
        for e, n, s in zip(errors, samples, record.sigma, strict=True)
    )
    return min(test.pvalue for test in tests) * len(errors)


@pytest.mark.parametrize("model_type", [HalfSpace, Slab])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rates_of_linear_models_are_those_of_theory(model_type, backend):
    model = model_type(16, 0.5)
    x, y = grey(4)
    sigma = [0.15, 0.2, 0.3, 0.8]
    record = rc.error_rate(rc.Engine(model, backend=backend), x, sigma, y, samples=20_000)
    assert record.provenance.backend == backend
    assert p_value(record, model) > FALSE_ALARM
    closer = model_type(16, 0.48)
    assert p_value(record, closer) < FALSE_ALARM  # an error of 4 % in the distance is seen


def test_interval_is_clopper_pearson():
    x, y = grey(1)
    record = rc.error_rate(HalfSpace(16, 0.5), x, 0.3, y, samples=200, confidence=0.9)
    exact = binomtest(int(record.n_errors[0, 0]), 200).proportion_ci(0.9, "exact")
    assert record.rate_low[0, 0] == pytest.approx(exact.low)
    assert record.rate_high[0, 0] == pytest.approx(exact.high)


def test_sigma_zero_is_the_clean_image():
    x, _ = grey(2)
    record = rc.error_rate(HalfSpace(16, 0.5), x, [0.0], torch.tensor([0, 1]), samples=7)
    assert record.n_errors.tolist() == [[0], [7]]


def test_labels_default_to_the_models_own():
    model, x = Small().eval(), torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    record = rc.error_rate(model, x, 0.1, samples=50)
    np.testing.assert_array_equal(record.labels, model(x).argmax(1).numpy())


def test_one_image_is_a_batch_of_one():
    model, x = Small().eval(), torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = rc.error_rate(model, x, 0.3, samples=300)
    batch = rc.error_rate(model, x[None], 0.3, samples=300)
    assert alone.n_errors.shape == (1, 1)
    np.testing.assert_array_equal(alone.n_errors, batch.n_errors)


# Whole numbers, so that a model's own rounding cannot differ between batches.
class Signs(torch.nn.Module):
    def forward(self, x):
        votes = torch.sign(x.flatten(1) - 0.5)
        return torch.stack([votes[:, ::2].sum(1), votes[:, 1::2].sum(1)], 1)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 5000])
def test_counts_do_not_depend_on_the_batch_size(batch_size):
    x = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    want = rc.error_rate(Signs(), x, [0.1, 0.5], samples=60)
    got = rc.error_rate(rc.Engine(Signs(), batch_size=batch_size), x, [0.1, 0.5], samples=60)
    assert want.n_errors.min() < want.n_errors.max()
    np.testing.assert_array_equal(got.n_errors, want.n_errors)


def test_counts_do_not_depend_on_the_company_or_the_order():
    x = torch.rand(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    whole = rc.error_rate(Signs(), x, 0.4, samples=100).n_errors
    order = torch.tensor([4, 0, 5])
    part = rc.error_rate(Signs(), x[order], 0.4, samples=100, ids=order).n_errors
    np.testing.assert_array_equal(part, whole[order])
    renamed = rc.error_rate(Signs(), x[order], 0.4, samples=100).n_errors
    assert (renamed != whole[order]).any()  # the ids are what names the draws


def test_counts_add_up_over_the_grid_and_backends():
    x = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    both = rc.error_rate(Signs(), x, [0.2, 0.6], samples=100)
    for g, sigma in enumerate([0.2, 0.6]):
        for backend in BACKENDS:
            one = rc.error_rate(rc.Engine(Signs(), backend=backend), x, sigma, samples=100)
            np.testing.assert_array_equal(one.n_errors[:, 0], both.n_errors[:, g])


def test_more_samples_begin_with_the_fewer():
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    few, many = (rc.error_rate(Signs(), x, 0.4, samples=n).n_errors for n in (50, 400))
    assert (few <= many).all()
    assert (many - few <= 350).all()


def test_seed_names_the_draws():
    x = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    a, b, c = (rc.error_rate(Signs(), x, 0.4, samples=400, seed=s).n_errors for s in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_clip_keeps_pixels_in_range():
    seen = []

    def model(x):
        seen.append((float(x.min()), float(x.max())))
        return torch.stack([x.flatten(1).sum(1), torch.zeros(len(x))], 1)

    rc.error_rate(model, grey(2)[0], 1.0, samples=20, noise=rc.Gaussian((0, 1)))
    assert min(low for low, _ in seen) == 0
    assert max(high for _, high in seen) == 1
    rc.error_rate(model, grey(2)[0], 1.0, samples=20)
    assert seen[-1][0] < 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_model_gets_images_of_the_callers_type(dtype):
    seen = set()

    def model(x):
        seen.add(x.dtype)
        return torch.stack([x.flatten(1).sum(1), 7.9 * torch.ones(len(x), dtype=x.dtype)], 1)

    record = rc.error_rate(model, grey(2)[0].to(dtype), 0.1, samples=30)
    assert seen == {dtype}
    assert record.provenance.dtype == str(dtype).removeprefix("torch.")


def test_ties_and_nan_are_errors():
    def tie(x):
        return torch.ones(len(x), 3)

    def nan(x):
        logits = torch.ones(len(x), 3)
        logits[:, 0] = 5
        logits[x.flatten(1)[:, 0] > 0.5, 2] = torch.nan
        return logits

    x, y = grey(1)
    assert rc.error_rate(tie, x, 0.1, y, samples=9).n_errors.item() == 9
    half = rc.error_rate(nan, x, 0.1, y, samples=400).n_errors.item()
    assert 120 < half < 280


def test_evaluations_are_counted():
    record = rc.error_rate(HalfSpace(16, 0.5), grey(5)[0], [0.1, 0.2, 0.3], samples=11)
    assert (record.n_forward >= 3 * 11 + 1).all()
    assert (record.n_forward <= 3 * 11 + 1 + 14 + 4).all()  # the probes of the model
    assert (record.n_backward == 0).all()
