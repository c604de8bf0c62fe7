"""Attacks as others wrote them, what they may return, and bad input."""

import numpy as np
import pytest
import torch
from test_audit import MISCLASSIFIED, MISSED, SIGMA, exact, half_space

import robustcore as rc
from robustcore.concentration import adapters
from robustcore.results import AuditResult, Record


def fair(attack, **how):
    model, x, y = half_space(6)
    found = rc.audit_attack(model, x, y, attack, sigma=SIGMA, points=40, samples=2000, **how)
    assert found.overall != MISSED, repr(found)
    return found


def test_foolbox_attacks_go_in_as_they_are():
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed")
    found = fair(adapters.foolbox(foolbox.attacks.L2DeepFoolAttack(steps=20)))
    assert found.ratio == pytest.approx(1, abs=0.3)
    found = fair(
        adapters.foolbox(foolbox.attacks.L2PGD(rel_stepsize=0.1, steps=20), eps=0.2), eps=0.2
    )
    assert np.nanmax(np.where(np.isfinite(found.distances), found.distances, 0)) < 0.201
    # the projection of this one is without effect, so that it does not minimise
    broken = foolbox.attacks.L2FMNAttack(steps=20)
    model, x, y = half_space(6)
    how = {"sigma": SIGMA, "points": 40, "samples": 2000}
    assert rc.audit_attack(model, x, y, adapters.foolbox(broken), **how).overall == MISSED


def test_torchattacks_attacks_go_in_as_they_are():
    ta = pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    fair(adapters.torchattacks(ta.PGDL2, eps=0.2, alpha=0.05, steps=20), eps=0.2)
    fair(adapters.torchattacks(ta.DeepFool, steps=20))


def test_art_attacks_go_in_as_they_are():
    evasion = pytest.importorskip("art.attacks.evasion", reason="ART is not installed")
    fair(adapters.art(evasion.DeepFool, max_iter=20, epsilon=1e-3, verbose=False))
    settings = {"norm": 2, "eps": 0.2, "eps_step": 0.05, "max_iter": 20, "verbose": False}
    fair(adapters.art(evasion.ProjectedGradientDescentPyTorch, **settings), eps=0.2)


def test_autoattack_goes_in_as_it_is():
    library = pytest.importorskip("pyautoattack", reason="pyautoattack is not installed")
    how = {"version": "custom", "attacks": ["apgd-ce"], "seed": 0}
    fair(adapters.autoattack(library.AutoAttack, eps=0.2, **how), eps=0.2)


# -- what attacks may return -----------------------------------------------------------------


def test_images_that_are_no_errors_count_as_not_found_and_it_is_said():
    model, x, y = half_space(3)
    found = rc.audit_attack(model, x, y, lambda model, x, y: x, sigma=SIGMA, points=20)
    assert np.isinf(found.median).all()
    assert (found.verdict == MISSED).all()
    assert found.noise_nearer.all()
    assert (found.n_not_errors >= 15).all()
    assert "are no errors: not found" in " ".join(found.provenance.notes)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_images_that_are_not_finite_count_as_not_found_and_it_is_said(value):
    def attack(model, x, y):
        found = exact()(model, x, y)
        found[:, 0, 1, 2] = value
        return found

    found = rc.audit_attack(*half_space(3), attack, sigma=SIGMA, points=20)
    assert np.isinf(found.median).all()
    assert (found.n_not_finite + (found.distances == 0).sum(-1) == 20).all()
    assert (found.n_not_errors == 0).all()
    assert "hold NaN or inf" in " ".join(found.provenance.notes)


def test_attack_that_stops_on_the_boundary_is_not_held_to_rounding():
    def attack(model, x, y):
        return exact(1 - 1e-5)(model, x, y)

    found = rc.audit_attack(*half_space(3), attack, sigma=SIGMA, points=30)
    assert (found.n_not_errors == 0).all()
    assert found.count(MISSED) == 0


def test_radius_that_was_not_told_is_guessed_at():
    def attack(model, x, y):
        return x - 0.6 * model.w.view(1, 1, 4, 4)

    found = rc.audit_attack(*half_space(3), attack, sigma=SIGMA, points=20)
    assert "Give eps" in " ".join(found.provenance.notes)
    told = rc.audit_attack(*half_space(3), attack, sigma=SIGMA, points=20, eps=0.61)
    assert "Give eps" not in " ".join(told.provenance.notes)


def test_attack_gets_its_model_and_correct_draws_alone():
    model, x, y = half_space(4)
    y = torch.tensor([0, 1, 0, 0])
    seen = []

    def attack(given, x, labels):
        assert given is model
        assert torch.is_grad_enabled()
        assert (model(x).argmax(1) == labels).all()
        seen.append(len(x))
        x.zero_()  # what it does to its images is its own affair
        return x.double().numpy() - 9.0

    found = rc.audit_attack(
        rc.Engine(model, batch_size=16), x, y, attack, sigma=SIGMA, points=50, samples=100
    )
    assert max(seen) <= 16
    assert found.verdict[1] == MISCLASSIFIED
    assert not found.noise_nearer[1]
    assert (found.distances[1] == 0).all()
    assert sum(seen) == 3 + (found.distances[[0, 2, 3]] > 0).sum()


def test_record_is_saved_cut_and_shown(tmp_path):
    found = rc.audit_attack(*half_space(3), exact(3.0), sigma=[0.1, 0.12], points=50)
    found.save(tmp_path / "audit.npz")
    back = Record.load(tmp_path / "audit.npz")
    assert isinstance(back, AuditResult)
    assert (back.verdict == found.verdict).all()
    assert back.eps is None
    assert f"{MISSED} (confidence 0.95); 3 {MISSED}" in repr(found)
    table = found.columns()
    assert len(table["ratio"]) == len(table["verdict"]) == len(table["sigma"]) == 6
    assert found[1:].overall == MISSED


def test_sigma_for_each_image():
    model, x, y = half_space(3)
    sigma = np.array([[0.1, 0.2], [0.05, 0.1], [0.08, 0.1]])
    found = rc.audit_attack(model, x, y, exact(), sigma=sigma, points=20, samples=200)
    assert (found.sigma == sigma).all()


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"points": 4}, ValueError, "points must be at least 5 for confidence 0.95"),
        ({"points": 6, "sigma": [0.1, 0.2, 0.3]}, ValueError, "shared between 3 sigmas, was 6"),
        ({"points": 50, "samples": 40}, ValueError, "samples must be at least points"),
        ({"eps": -1.0}, ValueError, "eps must be positive"),
        ({"confidence": 0.0}, ValueError, "confidence must lie strictly between 0 and 1"),
        ({"sigma": np.ones((3, 2))}, ValueError, "a row for each of 2 inputs, had 3"),
        ({"sigma": -1.0}, ValueError, "sigma must be finite and not negative"),
        ({"attack": 3}, TypeError, "attack must be callable, was int"),
        ({"attack": lambda m, x, y: x[:1]}, ValueError, "attack must return images of the shape"),
        ({"attack": lambda m, x, y: "no"}, TypeError, "attack must return a tensor"),
        ({"attack": lambda m, x, y: x.long()}, TypeError, "floating-point images"),
        ({"sigma": np.ones((2, 0))}, ValueError, "sigma must be a number or a flat grid"),
        ({"sigma": None, "error_rates": 2.0}, ValueError, "error_rates must lie strictly"),
        ({"sigma": None, "error_rates": []}, ValueError, "error_rates must be a number or a flat"),
        ({"sigma": None, "error_rates": [[0.1]]}, ValueError, "error_rates must be .* a flat list"),
        ({"sigma": None, "error_rates": "few"}, TypeError, "error_rates must be a number or a li"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    given = {"attack": exact(), "sigma": SIGMA} | arguments
    attack = given.pop("attack")
    with pytest.raises(error, match=message):
        rc.audit_attack(*half_space(2), attack, **given)


def test_needed_points_are_enough():
    with pytest.raises(ValueError, match="points must be at least 6"):
        rc.audit_attack(*half_space(2), exact(), sigma=[0.1, 0.2], points=5)
    found = rc.audit_attack(*half_space(2), lambda m, x, y: x, sigma=[0.1, 0.2], points=6)
    assert (found.distances > 0).all(2).any()  # else nothing could be shown here
    assert found.count(MISSED) > 0


def test_little_confidence_needs_a_single_point():
    found = rc.audit_attack(
        *half_space(2), exact(), sigma=SIGMA, points=1, samples=200, confidence=0.1
    )
    assert found.distances.shape == (2, 1, 1)
    assert found.overall != MISSED
