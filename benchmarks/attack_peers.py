"""The attacks of foolbox, torchattacks and ART as functions (model, x, y) -> images in [0, 1]."""

import foolbox as fb
import numpy as np
import torch
import torchattacks as ta
from art.attacks.evasion import DeepFool, ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier


def peers_minimum(norm):
    """name: attack(model, x, y) -> images, searching for the least distance."""

    def foolbox(attack):
        def run(model, x, y):
            wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
            return attack(wrapped, x, y, epsilons=None)[0]

        return run

    def fab(model, x, y):
        name = "L2" if norm == 2 else "Linf"
        return ta.FAB(model, norm=name, eps=100.0, steps=20, n_restarts=1, n_classes=10)(x, y)

    def art(model, x, y):
        classifier = PyTorchClassifier(
            model, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1),
            device_type="cpu",
        )  # fmt: skip
        attack = DeepFool(classifier, max_iter=50, batch_size=len(x), verbose=False)
        return torch.from_numpy(attack.generate(x.numpy()))

    def smallest(attack, grid):
        """The least radius of a grid at which a fixed-radius attack succeeds."""

        def run(model, x, y):
            best, left = x.clone(), torch.arange(len(x))
            for eps in grid:
                found = attack(model, eps)(x[left], y[left])
                with torch.no_grad():
                    wrong = model(found).argmax(1) != y[left]
                best[left[wrong]], left = found[wrong], left[~wrong]
                if not len(left):
                    break
            return best

        return run

    if norm == 2:
        attacks = fb.attacks
        return {
            "foolbox DDN 100": foolbox(attacks.DDNAttack(steps=100)),
            "foolbox DDN 300": foolbox(attacks.DDNAttack(steps=300)),
            "foolbox DeepFool": foolbox(attacks.L2DeepFoolAttack()),
            "torchattacks FAB 20": fab,
            "ART DeepFool": art,
        }
    grid = [0.25 / 255 * 1.25**k for k in range(24)]
    return {
        "foolbox FMN 100": foolbox(fb.attacks.LInfFMNAttack(steps=100)),
        "foolbox DeepFool": foolbox(fb.attacks.LinfDeepFoolAttack()),
        "torchattacks FAB 20": fab,
        "torchattacks APGD, grid of 25 %": smallest(
            lambda model, eps: ta.APGD(model, norm="Linf", eps=eps, steps=50), grid
        ),
        "torchattacks APGD-t, grid of 25 %": smallest(
            lambda model, eps: ta.APGDT(model, norm="Linf", eps=eps, steps=20, n_classes=10), grid
        ),
    }


def peers_pgd(eps, steps, restarts):
    def foolbox(model, x, y):
        wrapped = fb.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = fb.attacks.LinfPGD(steps=steps).repeat(restarts)
        return attack(wrapped, x, y, epsilons=eps)[1]

    def torchattacks(model, x, y):
        one = [
            ta.PGD(model, eps=eps, alpha=2.5 * eps / steps, steps=steps) for _ in range(restarts)
        ]
        return ta.MultiAttack(one)(x, y)

    def art(model, x, y):
        classifier = PyTorchClassifier(
            model, torch.nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0, 1),
            device_type="cpu",
        )  # fmt: skip
        attack = ProjectedGradientDescentPyTorch(
            classifier, norm=np.inf, eps=eps, eps_step=2.5 * eps / steps, max_iter=steps,
            num_random_init=restarts, batch_size=128, verbose=False,
        )  # fmt: skip
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return {"foolbox": foolbox, "torchattacks": torchattacks, "ART": art}
