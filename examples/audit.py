"""Is an attack lying? Plain PGD and a straight-through attack on three models that hide gradients.

    python examples/audit.py [--images 4] [--points 40] [--out out/audit] [--model cifar10-natural]

Each model is a network of the zoo behind something that hides its gradients: pixels rounded to 6
bits, JPEG, and probabilities so sharp that they are 0 and 1. Plain PGD finds nothing there, and the
error rate in noise, which needs no gradient, proves it wrong. The same attack, told the gradient of
what is hidden, is not. Exits with 1 where that is not so.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import robustcore as rc
from robustcore.defenses import JPEG, BitDepth


class Sharp(nn.Module):
    """Probabilities at a temperature so low that they are 0 and 1 and their gradients 0.

    gradient="straight-through" shows the gradients of the logits behind them.
    """

    def __init__(self, model, gradient):
        super().__init__()
        self.model, self.gradient = model, gradient

    def forward(self, x):
        logits = self.model(x)
        sure = (1e4 * logits).softmax(1)
        return logits + (sure - logits).detach() if self.gradient == "straight-through" else sure


def pgd(model, x, y, step=0.01, steps=60):
    """Ascent on the cross-entropy up to the first error, as many write it."""
    away, live = torch.zeros_like(x), torch.arange(len(x), device=x.device)
    for _ in range(steps):
        at = (x[live] + away[live]).requires_grad_(True)
        logits = model(at)
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y[live], reduction="sum"), at)
        length = gradient.flatten(1).norm(dim=1)
        goes_on = (logits.argmax(1) == y[live]) & (length > 0)
        live = live[goes_on]
        if not len(live):
            break
        away[live] += step * gradient[goes_on] / length[goes_on].view(-1, 1, 1, 1)
    return x + away


MODELS = {
    "6-bit pixels": lambda model, gradient: BitDepth(model, 6, gradient=gradient),
    "JPEG 95": lambda model, gradient: JPEG(model, 95, gradient=gradient),
    "sharp softmax": Sharp,
}
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="cifar10-natural", help="a network of the zoo")
parser.add_argument("--images", type=int, default=4, help="the clearest of the first 50")
parser.add_argument("--points", type=int, default=40)
parser.add_argument("--samples", type=int, default=2000)
parser.add_argument("--out", type=Path, default=Path("out/audit"))
args = parser.parse_args()
args.out.mkdir(parents=True, exist_ok=True)
network, x, y = rc.load_example(args.model, 50)
with torch.no_grad():
    logits = network(x)
own = logits.gather(1, y[:, None])[:, 0]
lead = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
clear = lead.topk(args.images).indices
x, y = x[clear], y[clear]
how = {"points": args.points, "samples": args.samples, "error_rates": 0.01, "ids": clear}
right = True
for name, wrap in MODELS.items():
    hidden, shown = (wrap(network, each).eval() for each in ("hidden", "straight-through"))

    def told(model, x, y, shown=shown):
        return pgd(shown, x, y)

    for title, attack in (("plain PGD", pgd), ("straight-through", told)):
        found = rc.audit_attack(hidden, x, y, attack, **how)
        found.save(args.out / f"{name.replace(' ', '-')}.{title.replace(' ', '-')}.npz")
        print(f"{name:14} {title:17} {found.overall:14} {found}", flush=True)
        right &= (found.overall == "missed errors") == (attack is pgd)
print("as it should be" if right else "not as it should be")
raise SystemExit(0 if right else 1)
