"""The filters of one field of a lifting layer: constrained to D4, relaxed to C4, and after training has used that."""

import matplotlib.pyplot as plt
import torch

from skequinas.groups import PointGroup
from skequinas.nn import GroupConv2d

group = PointGroup.from_name("D4")
options = {"kernel_size": 5, "regular_in": False, "bias": False, "generator": torch.Generator().manual_seed(3)}
parent = GroupConv2d(group.whole, 1, 1, **options)
child = GroupConv2d(group.subgroup("C4"), 1, 1, **options)
child.inherit(parent)
kernels = {"constrained to D4": parent.kernel().detach()[:, 0], "relaxed to C4": child.kernel().detach()[:, 0]}
if not torch.equal(*kernels.values()):
    raise AssertionError("The relaxation has changed the kernel.")
with torch.no_grad():
    child.weights.weight += 0.3 * torch.randn(child.weights.weight.shape, generator=options["generator"])
kernels["after a change"] = child.kernel().detach()[:, 0]

limit = max(float(kernel.abs().max()) for kernel in kernels.values())
figure, axes = plt.subplots(3, 8, figsize=(7.2, 3.3), layout="constrained")
for row, (title, kernel) in zip(axes, kernels.items(), strict=True):
    for element, ax in zip(group.elements, row, strict=True):
        ax.imshow(kernel[element], cmap="RdBu", vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[])
        colour = "black" if title == "constrained to D4" or element < 4 else "#D55E00"
        for spine in ax.spines.values():
            spine.set(color=colour, linewidth=2)
        if row is axes[0]:
            flip, turns = divmod(element, 4)
            ax.set_title(f"$r^{turns}{'s' if flip else ''}$" if element else "$e$", fontsize=9)
    row[0].set_ylabel(title.replace(" to ", "\nto ").replace("a change", "\na change"), fontsize=8)
