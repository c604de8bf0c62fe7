"""The part of benchmarks/gpu.py with whole test sets: sigma of 10,000 images, and certificates."""

import time

import numpy as np
import torch

import robustcore as rc
from robustcore.zoo.resnet import ResNet
from robustcore.zoo.wide_resnet import WideResNet

PRECISIONS = None, "tf32", "bfloat16"
PUBLISHED = 14.0  # seconds an image of ResNet-110, n = 100,000 (Cohen et al., 2019)


def timed(run, call):
    start = time.perf_counter()
    found = call()
    if not run.dry:
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


def test_set(run):
    """CIFAR-10's test images and labels, and how they were come by."""
    count = run.size(10_000, 4)
    if run.data is not None:
        held = rc.training.load_cifar10(run.data)
        x, y = held.x_test[:count].float() / 255, held.y_test[:count]
        return x.to(run.device), y.to(run.device), "the test set"
    x, y = rc.load_images(min(count, 1000), device=run.device)
    times = -(-count // len(x))
    return x.repeat(times, 1, 1, 1), y.repeat(times), "the 1,000 shipped ones, under ten names each"


def cohen(model, x, sigma, n0, n, batch=400):
    """The published counting (Cohen et al., 2019), one image, in plain torch."""
    counts = []
    for draws in (n0, n):
        count = np.zeros(10, np.int64)
        with torch.no_grad():
            for first in range(0, draws, batch):
                many = x.repeat(min(batch, draws - first), 1, 1, 1)
                classes = model(many + sigma * torch.randn_like(many)).argmax(1).cpu().numpy()
                count += np.bincount(classes, minlength=10)
        counts.append(count)
    return counts[1][counts[0].argmax()]


def sets(run):
    """sigma(x, 0.01) of 10,000 images by ResNet-20, the rate of WRN-28-10, a certificate."""
    x, y, images = test_set(run)
    model = rc.load_model("cifar10-natural", device=run.device)
    found = {"images": len(x), "which": images, "wanted_seconds": {"ResNet-20": 180, "WRN": 1800}}
    precisions = [each for each in PRECISIONS if not (run.dry and each == "tf32")]
    how = {"samples": run.size(1000, 100), "progress": False}
    first = None
    for precision in precisions:
        record, took = timed(
            run, lambda p=precision: rc.sigma_at_error_rate(model, x, 0.01, y, precision=p, **how)
        )
        row = {"seconds": round(took, 2), "evaluations": int(record.n_forward.sum())}
        row["batch"] = record.provenance.batch_size
        if first is None:
            first = record
        else:
            apart = record.bracket_low > first.bracket_high
            row["brackets_apart"] = int((apart | (first.bracket_low > record.bracket_high)).sum())
        found[f"sigma, ResNet-20, {precision or 'float32'}"] = row
        run.keep(found)
    each = first.n_forward.mean()
    torch.manual_seed(0)
    wide = (ResNet(8) if run.dry else WideResNet(28, 10)).eval().to(run.device)
    draws = run.size(2**15, 64)
    for precision in precisions:
        record, took = timed(
            run,
            lambda p=precision: rc.error_rate(
                wide, x[:1], 0.05, samples=draws, precision=p, progress=False
            ),
        )
        found[f"sigma, WRN-28-10, {precision or 'float32'}"] = {
            "draws_per_second": round(draws / took),
            "seconds_expected": round(each * 10_000 * took / draws),  # at as many draws an image
        }
        run.keep(found)
    deep = (ResNet(8) if run.dry else ResNet(110)).eval().to(run.device)
    n0, n = run.size(100, 20), run.size(100_000, 200)
    plain = min(timed(run, lambda: cohen(deep, x[:1], 0.25, n0, n))[1] for _ in range(2))
    for precision in precisions:

        def call(precision=precision):
            how = {"sigma": 0.25, "n0": n0, "n": n, "precision": precision, "progress": False}
            return rc.certify(deep, x[:1], **how)

        took = min(timed(run, call)[1] for _ in range(2))
        found[f"certificate, ResNet-110, {precision or 'float32'}"] = {
            "seconds": round(took, 3),
            "ratio_to_plain": round(plain / took, 2),
            "ratio_to_published": round(PUBLISHED / took, 1),
            "wanted_ratio": 20.0,
        }
        run.keep(found)
    return found
