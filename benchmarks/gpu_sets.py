"""The part of benchmarks/gpu.py with whole test sets: sigma of 10,000 images, and certificates."""

import time

import numpy as np
import torch

import robustcore as rc
from robustcore.zoo.resnet import ResNet
from robustcore.zoo.wide_resnet import WideResNet

PRECISIONS = None, "bfloat16", "tf32"
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
        with np.load(run.data / "test.npz") as held:
            images, labels = held["images"][:count], held["labels"][:count]
        x = torch.from_numpy(images).to(run.device).permute(0, 3, 1, 2).float().div(255)
        y = torch.from_numpy(labels).to(run.device, torch.int64)
        return x.contiguous(), y, "the test set"
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


def certificates(run, precisions, x, found):
    """A certificate of one image by ResNet-110, beside the published counting."""
    torch.manual_seed(0)
    deep = (ResNet(8) if run.dry else ResNet(110)).eval().to(run.device)
    n0, n = run.size(100, 20), run.size(100_000, 200)
    plain = min(timed(run, lambda: cohen(deep, x[:1], 0.25, n0, n))[1] for _ in range(2))
    for precision in precisions:

        def call(precision=precision):
            engine = rc.Engine(deep, precision=precision, progress=False)
            return rc.certify(engine, x[:1], sigma=0.25, n0=n0, n=n)

        took = min(timed(run, call)[1] for _ in range(2))
        found[f"certificate, ResNet-110, {precision or 'float32'}"] = {
            "seconds": round(took, 3),
            "ratio_to_plain": round(plain / took, 2),
            "ratio_to_published": round(PUBLISHED / took, 1),
            "wanted_ratio": 20.0,
        }
        run.keep(found)


def wide(run, precisions, x, found):
    """The rate of WRN-28-10; seconds of a test set follow from the draws of ResNet-20's."""
    torch.manual_seed(0)
    model = (ResNet(8) if run.dry else WideResNet(28, 10)).eval().to(run.device)
    draws = run.size(2**15, 64)
    for precision in precisions:
        engine = rc.Engine(model, precision=precision, progress=False)

        def call(samples, engine=engine):
            return rc.error_rate(engine, x[:1], 0.05, samples=samples)

        call(run.size(2**13, 16))  # algorithms are chosen
        took = timed(run, lambda call=call: call(draws))[1]
        name = f"sigma, WRN-28-10, {precision or 'float32'}"
        found[name] = {"draws_per_second": round(draws / took)}
        run.keep(found)


def resnet(run, precisions, x, y, found):
    """sigma(x, 0.01) of the whole set by ResNet-20; of the first precision's draws, WRN-28-10's."""
    model = rc.load_model("cifar10-natural", device=run.device)
    samples, first = run.size(1000, 100), None
    few = x[: run.size(64, 2)]
    for precision in precisions:
        engine = rc.Engine(model, precision=precision, progress=False)
        rc.sigma_at_error_rate(engine, few, 0.01, samples=samples)
        record, took = timed(
            run, lambda e=engine: rc.sigma_at_error_rate(e, x, 0.01, y, samples=samples)
        )
        row = {"seconds": round(took, 2), "evaluations": int(record.n_forward.sum())}
        row["batch"] = record.provenance.batch_size
        if first is None:
            first = record
        else:
            apart = record.bracket_low > first.bracket_high
            row["brackets_apart"] = int((apart | (first.bracket_low > record.bracket_high)).sum())
        found[f"sigma, ResNet-20, {precision or 'float32'}"] = row
        for name, other in found.items():
            if name.startswith("sigma, WRN-28-10") and "seconds_expected" not in other:
                needed = first.n_forward.mean() * 10_000
                other["seconds_expected"] = round(needed / other["draws_per_second"])
        run.keep(found)


def sets(run):
    """sigma(x, 0.01) of 10,000 images by ResNet-20, the rate of WRN-28-10, a certificate.

    The shortest first: what is cut off at the end of its time has been kept as far as it was.
    """
    x, y, images = test_set(run)
    found = {"images": len(x), "which": images, "wanted_seconds": {"ResNet-20": 180, "WRN": 1800}}
    precisions = [each for each in PRECISIONS if not (run.dry and each == "tf32")]
    certificates(run, precisions, x, found)
    wide(run, precisions, x, found)
    resnet(run, precisions, x, y, found)
    return found
