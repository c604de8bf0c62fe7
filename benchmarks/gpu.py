"""What a GPU gives: measured limits, and each kernel, network and attack as a share of them.

    python benchmarks/gpu.py PART ... [--out FILE] [--data FOLDER] [--dry-run]

Parts: limits, digest, kernels, networks, attacks, sets. Each is added to FILE, a table of all
printed. benchmarks/gpu.sh builds, tests and runs all of them. Every ratio is of times of one run.
Float32 is float32: TF32, which torch by itself takes for convolutions, has rows of its own. A part
that fails is told in FILE and stops no other; the exit status is then 1.
--data is a folder with CIFAR-10's test.npz, which `sets` measures. --dry-run takes tiny sizes on
the CPU: then numbers mean nothing, and everything but the device is tried.
"""

import argparse
import json
import re
import traceback
from pathlib import Path

import torch
from gpu_kernels import digest, kernels, limits
from gpu_networks import attacks, networks
from gpu_run import Run
from gpu_sets import sets
from machine import machine

RESULTS = Path(__file__).parent / "results"
PARTS = {each.__name__: each for each in (limits, digest, kernels, networks, attacks, sets)}


def name_of(dry):
    name = "dry-run" if dry else torch.cuda.get_device_name()
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def software(run):
    import importlib.metadata as known

    there = {}
    for name in ("triton", "foolbox", "torchattacks"):
        try:
            there[name] = known.version(name)
        except known.PackageNotFoundError:
            there[name] = None
    if not run.dry:
        memory = torch.cuda.get_device_properties(0).total_memory
        there |= {"gpu": torch.cuda.get_device_name(), "gigabytes": round(memory / 1e9, 1)}
        there |= {"cuda": torch.version.cuda, "tf32": torch.backends.cudnn.allow_tf32}
    return there


def table(result):
    """A short table of what was measured."""
    lines = []
    for key, value in result.get("limits", {}).items():
        lines.append(f"{key:44} {value:>10}")
    if "digest" in result:
        known = result["digest"]
        lines.append(f"{known['normals']} normals, one digest: {', '.join(known['bodies'])}")
    for name, row in result.get("kernels", {}).items():
        if "failed" in row:
            lines.append(f"{name:44} failed: {row['failed']}")
            continue
        rate, share = row["gigabytes_per_second"], row["share_of_copy"]
        lines.append(f"{name:44} {rate:>10} GB/s  {100 * share:5.1f} % of a copy")
    for name, row in result.get("networks", {}).items():
        lines.append(
            f"{name:44} {row['ratio_to_plain']:>10} times plain torch, "
            f"{row['ratio_of_features']} in features, {row['ratio_to_compiled']} times compiled, "
            f"overhead {100 * row['engine_overhead']:.1f} %, "
            f"{100 * row['share_of_bf16']:.1f} % of bf16, waits {row['waits']}"
        )
    if "ratio_to_fastest" in result.get("attacks", {}):
        ratio = result["attacks"]["ratio_to_fastest"]
        lines.append(f"{'PGD on ResNet-20':44} {ratio:>10} times the fastest other")
        fused = result["attacks"].get("MLP 784-256-10, fused")
        if fused is not None:
            told = ", ".join(f"{name} {took} s" for name, took in fused["seconds"].items())
            lines.append(
                f"{'PGD on the MLP':44} {fused['ratio_to_not_fused']:>10} times not fused, {told}"
            )
    for name, row in result.get("sets", {}).items():
        if isinstance(row, dict) and "," in name:
            lines.append(f"{name:44} " + ", ".join(f"{k} {v}" for k, v in row.items()))
    lines += [f"{part} failed: {error}" for part, error in result.get("failed", {}).items()]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"PART must be one of {', '.join(PARTS)}, was {part}")
    if not given.dry_run and not torch.cuda.is_available():
        raise SystemExit("no GPU: torch.cuda.is_available() is False")
    out = given.out or RESULTS / f"gpu_{name_of(given.dry_run)}.json"
    result = json.loads(out.read_text()) if out.exists() else {}
    if not given.dry_run:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    failed = result.setdefault("failed", {})
    for part in given.parts:

        def keep(found, part=part):
            result[part] = found
            out.write_text(json.dumps(result, indent=1) + "\n")

        run = Run(given.dry_run, keep, given.data)
        result["machine"] = {**machine(), **software(run)}
        failed.pop(part, None)
        try:
            keep(PARTS[part](run))
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            failed[part] = f"{type(error).__name__}: {error}"[:2000]
            out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))
    raise SystemExit(1 if any(part in failed for part in given.parts) else 0)


if __name__ == "__main__":
    main()
