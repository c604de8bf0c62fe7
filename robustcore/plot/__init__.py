"""Records drawn into matplotlib Axes: one function a figure, which saves nothing and shows nothing.

Each takes the Axes to draw into, or makes a Figure of its own that pyplot does not know of, and
returns the Axes: `plot.sigma_histogram(record).figure.savefig("sigma.png")`. No global setting is
read for colours or changed. Colours are those of Okabe and Ito, told apart by colour-blind
readers and in grey; the ground is white, also on a dark page.
"""

from robustcore.plot.distance import distance_histograms, robust_accuracy
from robustcore.plot.figure1 import half_space, nearness_by_dimension, nearness_by_rate
from robustcore.plot.figure2 import sigma_against_distance, sigma_histograms
from robustcore.plot.figure3 import church_window, margin_window
from robustcore.plot.figure4 import noisy_distance_at_rate, noisy_distance_at_sigma
from robustcore.plot.figure5 import corruption_accuracy, corruption_groups
from robustcore.plot.figure6 import accuracy_over_trials
from robustcore.plot.noisy import accuracy_in_noise, image_row, noisy_images
from robustcore.plot.rare import ratio_to_half_space, sigma_against_rate
from robustcore.plot.sigma import sigma_histogram, sigma_intervals

__all__ = [
    "accuracy_in_noise",
    "accuracy_over_trials",
    "church_window",
    "corruption_accuracy",
    "corruption_groups",
    "distance_histograms",
    "half_space",
    "image_row",
    "margin_window",
    "nearness_by_dimension",
    "nearness_by_rate",
    "noisy_distance_at_rate",
    "noisy_distance_at_sigma",
    "noisy_images",
    "ratio_to_half_space",
    "robust_accuracy",
    "sigma_against_distance",
    "sigma_against_rate",
    "sigma_histogram",
    "sigma_histograms",
    "sigma_intervals",
]
