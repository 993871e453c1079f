"""The eight moved copies of one asymmetric motif under D4."""

import matplotlib.pyplot as plt
import torch

from skequinas.groups import PointGroup
from skequinas.nn import transform_images

motif = torch.zeros(7, 7)
motif[1:6, 2] = 1.0
motif[1, 2:5] = 1.0
motif[3, 2:4] = 1.0
group = PointGroup.from_name("D4")

figure, axes = plt.subplots(2, 4, figsize=(6.2, 3.5), layout="constrained")
for element, ax in zip(group.elements, axes.flat, strict=True):
    flip, turns = divmod(element, group.n_rotations)
    symbol = f"$r^{turns}{'s' if flip else ''}$" if element else "$e$"
    ax.imshow(transform_images(motif, group, element), cmap="gray_r", vmin=0, vmax=1.15)
    ax.set_title(f"{symbol}: {group.element_name(element)}", fontsize=9)
    ax.set(xticks=[], yticks=[])
