"""Rows of numbers: how much noise do small networks for scikit-learn's data sets withstand?

    python examples/tabular.py

Breast cancer: 30 measurements of a tumour, in units of their standard deviation, and a network of
one logit. Digits: 64 grey levels from 0 to 1 as a row, ten classes; an error is the wrong class,
or that the right one is not among the first two. Both networks are trained here, in seconds.
"""

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import robustcore as rc

ROWS = 50  # of the test set
EPOCHS = 150


def network(features: int, outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, outputs))


def trained(net: nn.Module, x: torch.Tensor, y: torch.Tensor, loss: nn.Module) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-4)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss(net(x).squeeze(1), y).backward()
        optimizer.step()
    return net.eval()


def split(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, ...]:
    parts = train_test_split(x, y, test_size=0.3, random_state=0, stratify=y)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    return train_x.float(), train_y, test_x.float(), test_y


def print_median(name: str, values: np.ndarray) -> None:
    print(f"  {name:<52} {np.median(values):.3f}")


# Breast cancer: any range, one logit
x, y, test_x, test_y = split(*load_breast_cancer(return_X_y=True))
centre, spread = x.mean(0), x.std(0)
x, test_x = (x - centre) / spread, (test_x - centre) / spread
net = trained(network(30, 1), x, y.float(), nn.BCEWithLogitsLoss())
engine = rc.Engine(net, error=rc.OneLogit(), pixels=None)
rows, labels = test_x[:ROWS], test_y[:ROWS]

print(f"Breast cancer: {ROWS} rows of {rows.shape[1]} standardised measurements, medians")
sigma = rc.sigma_at_error_rate(engine, rows, 0.01, labels).sigma
print_median("sigma at which 1 % are wrong", sigma)
laplace = rc.scale_at_error_rate(engine, rows, 0.01, labels, noise=rc.Laplace())
print_median("scale of Laplace noise at which 1 % are wrong", laplace.sigma)
near = rc.distance_to_error(engine, rows, labels, box=None)
print_median("distance (l2) to the nearest error", near.distance)

# Digits: rows in [0, 1], two kinds of error, three kinds of noise
data = load_digits()
x, y, test_x, test_y = split(data.data / 16, data.target)
net = trained(network(64, 10), x, y, nn.CrossEntropyLoss())
rows, labels = test_x[:ROWS], test_y[:ROWS]

print(f"Digits: {ROWS} rows of {rows.shape[1]} grey levels, medians")
for error in ("top1", rc.TopK(2)):
    engine = rc.Engine(net, error=error)
    sigma = rc.sigma_at_error_rate(engine, rows, 0.01, labels).sigma
    print_median(f"sigma at which 1 % are wrong, {error}", sigma)
for noise in (rc.Uniform("Linf"), rc.SaltAndPepper()):
    scale = rc.scale_at_error_rate(net, rows, 0.01, labels, noise=noise).sigma
    print_median(f"scale at which 1 % are wrong, {noise}", scale)
