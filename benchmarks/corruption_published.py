"""What the published code makes of one image, for tests/test_corruptions_published.py.

    python benchmarks/corruption_published.py --peer PYTHON --cifar test.npz \
        --out tests/published_corruptions.npz

Random corruptions are handed our random numbers of seed 1 (`corruption_draws.py`); shot_noise and
impulse_noise, which draw in another way, are left out.
"""

import argparse

import numpy as np
from corruption_draws import DRAWS, unit_draws
from corruption_fidelity import DETERMINISTIC, peer_run

SEVERITIES = (1, 3, 5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--cifar", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    with np.load(arguments.cifar) as file:
        images = file["images"][:1]
    draws = {
        (name, each): unit_draws(images, name, each, 1) for name in DRAWS for each in SEVERITIES
    }
    out, _ = peer_run(arguments.peer, images, [*DETERMINISTIC, *DRAWS], SEVERITIES, draws=draws)
    made = {f"{name}-{severity}": each[0] for (name, severity), each in out.items()}
    np.savez_compressed(arguments.out, image=images[0], **made)


if __name__ == "__main__":
    main()
