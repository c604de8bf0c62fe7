"""PGD on a small network: the engine, fused and not, beside foolbox and torchattacks.

100 steps, 10 restarts, linf, on a network trained here for a few seconds; all attacks take the same
steps. The limit is both matrix products at the core's peak (peak.cpp, where there is a compiler),
for each attack its share of that. Peers that are not installed are left out and said to be. A part
of bench_fused.py.
"""

import json

import torch
from limits import dense, in_turns, peak, rates
from torch import nn

import robustcore as rc

STEPS, RESTARTS, IMAGES = 100, 10, 100


def trained():
    """The MLP, trained on the zoo's test images: enough to have errors worth an attack."""
    x, y = rc.load_images(data="mnist")
    torch.manual_seed(0)
    model = dense(784, 256, 10).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(300):
        some = torch.randint(len(x), (128,))
        loss = nn.functional.cross_entropy(model(x[some]), y[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).nonzero().flatten()[:IMAGES]
    return model, x[right].contiguous(), y[right]


def peers(model, x, y, eps, alpha, steps=STEPS, restarts=RESTARTS):
    """Attacks of others, calls that return how many images are fooled; and who is missing."""
    found, missing = {}, []
    try:
        import foolbox

        def with_foolbox():
            attack = foolbox.attacks.LinfPGD(steps=steps, abs_stepsize=alpha, random_start=True)
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
            return int(attack.repeat(restarts)(wrapped, x, y, epsilons=eps)[2].sum())

        found["foolbox"] = with_foolbox
    except ImportError as error:
        missing.append(f"foolbox: {error}")
    try:
        import torchattacks

        def with_torchattacks():
            attack = torchattacks.PGD(model, eps=eps, alpha=alpha, steps=steps, random_start=True)
            fooled = torch.zeros_like(y, dtype=torch.bool)
            for _ in range(restarts):
                points = attack(x, y)
                with torch.no_grad():
                    fooled |= model(points).argmax(1) != y
            return int(fooled.sum())

        found["torchattacks"] = with_torchattacks
    except ImportError as error:
        missing.append(f"torchattacks: {error}")
    return found, missing


def pgd_table(rounds):
    model, x, y = trained()
    most = peak() or rates()[1]
    rows, missing = {}, []
    fused, not_fused = (rc.Engine(each, progress=False) for each in (model, lambda z: model(z)))
    for name, eps in (("no image fooled", 0.001), ("eps 0.03", 0.03), ("eps 0.1", 0.1)):
        alpha = eps / 40
        how = {"eps": eps, "steps": STEPS, "restarts": RESTARTS, "step_size": alpha}

        def ours(engine=fused, how=how):
            return rc.pgd(engine, x, y, **how)

        calls, missing = peers(model, x, y, eps, alpha)
        fooled: dict[str, int] = {}
        record, plain = ours(), ours(not_fused)
        assert abs(int(record.fooled.sum()) - int(plain.fooled.sum())) <= 1
        fooled["robustcore"] = int(record.fooled.sum())
        for each, call in tuple(calls.items()):
            calls[each] = lambda each=each, call=call: fooled.update({each: call()})  # noqa: B023
        calls["robustcore"] = ours
        calls["robustcore, not fused"] = lambda: ours(not_fused)
        took = in_turns(calls, rounds)
        each = 2 * (784 * 256 + 2560)  # multiply-adds of a gradient
        full = len(x) * RESTARTS * STEPS * each  # by those whose images never leave
        rows[name] = {
            "seconds": {key: round(value, 3) for key, value in took.items()},
            "fooled_of": len(x),
            "fooled": fooled,
            "gradients": int(record.n_backward.sum()),
            "microseconds_a_gradient": round(
                1e6 * took["robustcore"] / int(record.n_backward.sum()), 2
            ),
            "limit_seconds": round(int(record.n_backward.sum()) * each / most, 3),
            "share_of_peak_of_peers": {
                key: round(full / most / value, 2)
                for key, value in took.items()
                if not key.startswith("robustcore")
            },
            "ratios": {key: round(v / took["robustcore"], 2) for key, v in took.items()},
        }
        print(f"PGD, {name}: {json.dumps(rows[name])}", flush=True)
    return {"giga_multiply_adds_per_second": round(most / 1e9, 1), "rows": rows, "missing": missing}
