"""Records drawn into matplotlib Axes: one function a figure, which saves nothing and shows nothing.

Each takes the Axes to draw into, or makes a Figure of its own that pyplot does not know of, and
returns the Axes: `plot.sigma_histogram(record).figure.savefig("sigma.png")`. No global setting is
read for colours or changed. Colours are those of Okabe and Ito, told apart by colour-blind
readers and in grey; the ground is white, also on a dark page.
"""

from robustcore.plot.sigma import sigma_histogram, sigma_intervals

__all__ = ["sigma_histogram", "sigma_intervals"]
