"""The orbit test's statistic under random moves, and as observed, for a task with and without the symmetry C4."""

import matplotlib.pyplot as plt
import numpy as np

from skequinas.evidence import orbit_test

n_copies, n, n_moves = 4, 150, 4000
rng = np.random.default_rng(2)
noise = rng.normal(0.0, 1.0, (n_copies, n))
# the label fits the image as it was taken a little better than its copies
hint = np.where(np.arange(n_copies) == 0, 0.35, 0.0)[:, None]

figure, axes = plt.subplots(1, 2, figsize=(7.0, 2.9), sharex=True, sharey=True, layout="constrained")
for ax, title, logs in zip(axes, ["the task has C4", "the task lacks C4"], [noise, noise + hint], strict=True):
    shares = np.exp(logs) / np.exp(logs).sum(0)
    moves = rng.integers(n_copies, size=(n_moves, n))
    null = shares[moves, np.arange(n)].mean(1)
    p_value = orbit_test(logs[None], None, np.random.default_rng(0))
    ax.hist(null, bins=40, density=True, color="#BFE1F6", edgecolor="#56B4E9", label="moved at random")
    ax.axvline(shares[0].mean(), color="#D55E00", linewidth=2, label="observed")
    ax.axvline(1 / n_copies, color="black", linestyle=":", label="$1/|H|$")
    ax.set_title(f"{title}: p = {p_value:.2g}", fontsize=10)
    ax.set_xlabel("mean of $s$")
    ax.set_yticks([])
axes[0].legend(frameon=False, fontsize=8, loc="upper left")
