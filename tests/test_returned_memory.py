"""Models that return the same memory at each call, or a part of what they were given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from models import Small

import robustcore as rc
from robustcore.network import Network

NET = Small().eval()
X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def first_of_a_buffer():
    buffer = torch.zeros(9000, 5)

    def model(t):
        buffer[: len(t)] = NET(t)
        return buffer[: len(t)]

    return model


def one_buffer_for_each_size():
    buffers = {}

    def model(t):
        logits = NET(t)
        return buffers.setdefault(len(t), torch.empty_like(logits)).copy_(logits)

    return model


def strided_part_of_a_buffer():
    buffer = torch.zeros(9000, 12)

    def model(t):
        buffer[: len(t), :10:2] = NET(t)
        return buffer[: len(t), :10:2]

    return model


def held_by_an_object():
    inner = first_of_a_buffer()
    return lambda t: SimpleNamespace(logits=inner(t))


MODELS = {
    each.__name__: each
    for each in (
        first_of_a_buffer, one_buffer_for_each_size, strided_part_of_a_buffer, held_by_an_object,
    )
}  # fmt: skip


def in_small_batches(model):
    return rc.Engine(model, batch_size=16)


METHODS = {
    "error_rate": lambda m: rc.error_rate(m, X, [0.3, 1.0], samples=60),
    "error_rate, y": lambda m: rc.error_rate(m, X, 0.3, torch.arange(6) % 5, samples=60),
    "precision": lambda m: rc.error_rate(
        rc.Engine(m.model, batch_size=16, precision="bfloat16"), X, 0.5, samples=60
    ),
    "sigma": lambda m: rc.sigma_at_error_rate(m, X, 0.1, samples=60),
    "rare": lambda m: rc.error_curve(m, X[:2], rates=(0.1, 1e-3), samples=200, second_look=False),
    "certify": lambda m: rc.certify(m, X, sigma=0.3, n0=20, n=60),
    "predict": lambda m: rc.predict(m, X, sigma=0.3, n=60),
    "corruptions": lambda m: rc.corruption_benchmark(
        rc.Engine(lambda t: m.model(t[..., ::4, ::4]), batch_size=16),
        X.repeat(1, 1, 4, 4),
        corruptions=("contrast", "gaussian_noise"),
        severities=5,
    ),
}


def arrays(record) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(record, name)) for name in record._arrays()}


@pytest.fixture(scope="module")
def right():
    return {
        name: arrays(method(in_small_batches(lambda t: NET(t)))) for name, method in METHODS.items()
    }


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_a_buffer_is_read_before_it_is_written_again(right, model, method):
    made = in_small_batches(MODELS[model]())
    for name, value in arrays(METHODS[method](made)).items():
        np.testing.assert_array_equal(value, right[method][name], err_msg=name)


@pytest.mark.parametrize("model", MODELS)
def test_a_networks_answers_can_be_kept(model):
    made = MODELS[model]()
    one, other = (getattr(each, "logits", each) for each in (made(X), made(X.flip(0))))
    assert one.data_ptr() == other.data_ptr(), "a control: the model does reuse its memory"
    network = Network(made, X.device, X.dtype, X.shape[1:])
    with torch.no_grad():
        held = [network(part) for part in (X, X.flip(0), X[:2], X + 1)]
        for logits, part in zip(held, (X, X.flip(0), X[:2], X + 1), strict=True):
            torch.testing.assert_close(logits, NET(part))


def test_logits_that_are_a_part_of_the_input_are_kept():
    part, copy = lambda t: t.flatten(1)[:, :5], lambda t: t.flatten(1)[:, :5] * 1
    record, want = (
        rc.error_rate(in_small_batches(each), X, 0.3, samples=60) for each in (part, copy)
    )
    np.testing.assert_array_equal(record.n_errors, want.n_errors)
    assert 0 < want.n_errors.sum() < want.n_samples.sum()


@pytest.mark.parametrize("method", ["distance", "pgd", "noisy"])
def test_attacks_see_each_answer_of_a_buffer(method):
    """The buffer is cut off from the graph of the last call."""
    buffer = torch.zeros(9000, 5)

    def model(t):
        buffer.detach_()
        buffer[: len(t)] = NET(t)
        return buffer[: len(t)]

    measure = {
        "distance": lambda m: rc.distance_to_error(m, X, effort=60),
        "pgd": lambda m: rc.pgd(m, X, eps=0.5, norm=2, steps=5, restarts=2),
        "noisy": lambda m: rc.noisy_distance(m, X[:2], sigma=0.3, points=20, samples=60),
    }[method]
    mine, want = (arrays(measure(in_small_batches(each))) for each in (model, lambda t: NET(t)))
    for name, value in mine.items():
        np.testing.assert_array_equal(value, want[name], err_msg=name)
