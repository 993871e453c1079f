"""The ten subgroups of D4, each joined to its maximal subgroups."""

import matplotlib.pyplot as plt

from skequinas.groups import PointGroup

group = PointGroup.from_name("D4")
rows = {
    3: ["D4"],
    2: ["D2(0)", "C4", "D2(45)"],
    1: ["D1(0)", "D1(90)", "C2", "D1(45)", "D1(135)"],
    0: ["C1"],
}
at = {name: (i - (len(names) - 1) / 2, y) for y, names in rows.items() for i, name in enumerate(names)}

figure, ax = plt.subplots(figsize=(5.6, 3.6), layout="constrained")
for h in group.subgroups:
    for k in h.maximal_subgroups:
        (x0, y0), (x1, y1) = at[h.name], at[k.name]
        ax.plot([x0, x1], [y0, y1], color="0.6", linewidth=1, zorder=1)
    ax.text(
        *at[h.name],
        h.name,
        ha="center",
        va="center",
        bbox={"boxstyle": "round,pad=0.35", "facecolor": "#BFE1F6" if h.mirror is None else "#F6DA9C"},
    )
ax.set(xlim=(-2.6, 2.6), ylim=(-0.4, 3.4), xticks=[], ylabel="order")
ax.set_yticks(range(4), ["1", "2", "4", "8"])
ax.tick_params(axis="y", length=0)
ax.spines[:].set_visible(False)
