"""Figure 3 and appendix G: church windows through an image and two of its errors.

    python examples/figure3.py --model cifar10-natural --images 8 --out out/figure3 [--quick]

Claim 4: in most windows of each network (more than half, over all images of which these are drawn)
the error found in noise and the adversarial error lie in one connected region, and that region's
edge, within the circle of the noise, is off a straight line by at most 5 % of its radius. Exits
with 1 unless the intervals of both shares (verdict.py) lie above 1/2; writes figure3.json.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from verdict import LEVEL, judge, save, share_interval, together

import robustcore as rc
from robustcore import plot, zoo

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
known = [name for name in zoo.names() if name.startswith("cifar10-")]
parser.add_argument("--model", nargs="+", default=known, help="networks of the zoo")
parser.add_argument("--images", type=int, help="of each (default: 8; 4 with --quick)")
parser.add_argument("--size", type=int, help="nodes a side (default: 300; 100 with --quick)")
parser.add_argument("--out", type=Path, default=Path("out/figure3"))
parser.add_argument("--quick", action="store_true", help="fewer images, nodes and draws")
args = parser.parse_args()
images, samples = args.images or (4 if args.quick else 8), 400 if args.quick else 1000
args.out.mkdir(parents=True, exist_ok=True)
rows, parts = {}, {}
for name in args.model:
    model, x, y = rc.load_example(name, images)
    size = args.size or (100 if args.quick else 300)
    record = rc.church_windows(rc.Engine(model, progress=True), x, y, samples=samples, size=size)
    record.save(args.out / f"{name}.npz")
    drawn, words = np.flatnonzero(record.drawn), zoo.classes(name)
    print(f"{name}: {record}")
    for i in drawn:
        joined = "one region" if record.connected[i] else "two regions"
        numbers = record.half_space_distance[i], record.edge_distance[i]
        print(f"  image {record.ids[i]}: {joined}, errors predicted at {numbers[0]:.3f}, edge at "
              f"{numbers[1]:.3f}, off straight by {record.bend[i]:.1%}")  # fmt: skip
    ranked = drawn[np.argsort(record.bend[drawn])]  # four, from the straightest edge to the least
    few = ranked[np.unique(np.linspace(0, max(len(ranked) - 1, 0), 4).astype(int))[: len(ranked)]]
    for kind, draw in (("classes", plot.church_window), ("margins", plot.margin_window)):
        figure = Figure(
            figsize=(14.8, 4.8 * max(1, -(-len(few) // 2))), dpi=100, layout="constrained"
        )
        for at, i in enumerate(few):
            ax = figure.add_subplot(-(-len(few) // 2), 2, at + 1)
            draw(record, int(i), ax, names=words)
        figure.savefig(args.out / f"{name}-{kind}.png")
    ratio = record.edge_distance / record.half_space_distance
    columns = {"connected": record.connected, "bend": record.bend, "edge_over_predicted": ratio}
    rows[name] = {column: array[drawn].tolist() for column, array in columns.items()}
    for part, counted in (("one region", record.connected), ("flat", record.bend <= 0.05)):
        counts = int(counted[drawn].sum()), len(drawn)
        interval = share_interval(*counts, LEVEL / 2 / len(args.model))
        parts[f"{name}, {part}"] = [*counts, *interval, judge(interval, least=0.5)]
for part, row in parts.items():
    print("{}: {} of {} windows, share {:.2f} to {:.2f}: {}".format(part, *row))
outcome = together([row[-1] for row in parts.values()])
save(args.out / "figure3.json", windows=rows, parts=parts, outcome=outcome)
print(f"claim 4, a flat edge and one region: {outcome}")
raise SystemExit(0 if outcome == "holds" else 1)
