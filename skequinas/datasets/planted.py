"""Tasks whose symmetry is known, to test whatever claims to find symmetries."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skequinas.groups import PointGroup, Subgroup, fair_offset, parse_group
from skequinas.nn.transforms import transform_images

__all__ = ["make_planted_symmetry"]


def make_planted_symmetry(
    images: ArrayLike,
    y: ArrayLike | None = None,
    group: str | PointGroup = "D4",
    subgroup: str | Subgroup = "C4",
    *,
    noise: float = 0.0,
    forgiven: float = 0.0,
    regression: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Make a task that is invariant to exactly one subgroup of a group.

    Every image is moved by a random element g of the group G. Its label says in which right coset H g of the
    subgroup H the element lies: moving the image on by h takes g to h g, and H h g = H g exactly when h is in H. So if
    the images have no symmetry of their own, the labels are invariant under H and under no other element of G.

    Parameters
    ----------
    images : array-like of shape (n, size, size) or (n, size, size, channels)
        Square images, best without a symmetry of their own.
    y : array-like of shape (n,), optional
        Classes (or, in a regression, numbers) of the images, which no move changes. The label then tells the class
        and the coset, the target is their sum.
    group : str or PointGroup, default="D4"
        G. Unless it maps the pixel grid to itself, all images are interpolated, and turned a little further, so that
        they do not tell by their sharpness how they were moved.
    subgroup : str or Subgroup, default="C4"
        H. With H = G there is one coset alone, and y is needed.
    noise : float, default=0.0
        The share of the labels that are drawn anew from all labels; in a regression, the standard deviation of normal
        noise, where the cosets' values lie between -1 and 1.
    forgiven : float, default=0.0
        The share of the images whose label belongs to a random coset, whatever their own: there all moves are
        forgiven. With 1 the task has the whole group as its symmetry, and in between the whole group holds for a
        share of the data only.
    regression : bool, default=False
        A number for each coset as the target, evenly from -1 to 1, instead of labels.
    random_state : int, RandomState instance or None, default=None
        Draws the moves, the noise and what is forgiven.

    Returns
    -------
    X : ndarray of the shape and type of the images
        The moved images.
    target : ndarray of shape (n,)
        Labels from 0, ``class_number * n_cosets + coset_number``, or numbers.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas.datasets import make_planted_symmetry
    >>> X, labels = make_planted_symmetry(load_digits().images, subgroup="D2(45)", random_state=0)
    >>> X.shape, sorted(set(labels.tolist()))
    ((1797, 8, 8), [0, 1])
    """
    whole = parse_group(group)
    offset = fair_offset(whole)
    h = whole.subgroup(subgroup) if isinstance(subgroup, str) else subgroup
    if h.group != whole:
        raise ValueError(f"subgroup={h!r} is not a subgroup of group={whole.name!r}.")
    X = np.asarray(images)
    if X.ndim not in (3, 4) or X.shape[1] != X.shape[2]:
        raise ValueError(f"images has shape {X.shape}; it must be (n, size, size) or (n, size, size, channels).")
    for name, share in (("noise", noise), ("forgiven", forgiven)):
        if not 0 <= share <= (np.inf if regression and name == "noise" else 1):
            raise ValueError(f"{name}={share} must lie between 0 and 1.")
    if y is None and h.index == 1:
        raise ValueError(
            f"subgroup={h.name!r} is the whole group, which has one coset alone. Give y, or a smaller one."
        )
    values = np.zeros(len(X), dtype=int) if y is None else np.asarray(y)
    if values.shape != (len(X),):
        raise ValueError(f"y has shape {values.shape}, but there are {len(X)} images.")

    rng = check_random_state(random_state)
    moves = rng.randint(whole.order, size=len(X))
    forgiving = rng.random_sample(len(X)) < forgiven
    labelled = np.where(forgiving, rng.randint(whole.order, size=len(X)), moves)
    coset_of = np.empty(whole.order, dtype=np.int64)
    for number, coset in enumerate(h.right_cosets):
        coset_of[list(coset)] = number
    coset = coset_of[labelled]
    moved = X.copy()
    for g in whole.elements:
        rows = np.flatnonzero(moves == g)
        if not len(rows):
            continue
        planes = torch.from_numpy(np.moveaxis(X[rows], (1, 2), (-2, -1)).copy())
        if offset:
            copies = transform_images(planes.double(), whole, g, offset)
            copies = copies.clamp(float(X.min()), float(X.max()))  # bicubic interpolation overshoots
            planes = (copies if planes.dtype.is_floating_point else copies.round()).to(planes.dtype)
        else:
            planes = transform_images(planes, whole, g)
        moved[rows] = np.moveaxis(planes.numpy(), (-2, -1), (1, 2))
    if regression:
        height = np.linspace(-1, 1, h.index) if h.index > 1 else np.zeros(1)
        return moved, values + height[coset] + noise * rng.standard_normal(len(X))
    classes, codes = np.unique(values, return_inverse=True)
    labels = codes * h.index + coset
    drawn = rng.randint(len(classes) * h.index, size=len(X))
    return moved, np.where(rng.random_sample(len(X)) < noise, drawn, labels)
