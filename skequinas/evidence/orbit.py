r"""Which symmetries the data reject, from one network that is free to break all of them.

Let :math:`p(y | x)` be what a network says about the targets, and H a subgroup. If images together with their targets
are distributed alike when they are moved by H, then of the copies :math:`h x` of a held-out image x the one that was
observed is any of them, with equal probability, whatever the network. So

.. math:: s(x, y) = \frac{p(y | x)}{\sum_{h \in H} p(y | h x)} ,

how sure one would be, by label and network, that the image stands as it was taken, has the mean 1/\|H\|. A
larger mean is evidence against H. The test is exact: move every held-out image by a random element of H, again and
again; the share of moves that give as large a mean is the p-value. (Images are moved in up to 256 blocks, which is as
valid and costs less; images that are not independent of each other move together. A network's confidence, or the
variance of its errors in a regression, is first scaled so that the orbits, each with an unknown image as the observed
one, are most likely; no move changes this.) The p-values of all subgroups are adjusted for their number (Holm), and a
group is rejected with any of its subgroups. That any true symmetry is rejected then has at most the probability of the
level.

A large p-value is only the absence of evidence: a network that has learned little cannot be asked.

Beside the test stands what a user can picture: the held-out score, and the rise of the loss, when the network's outputs
are averaged over H, as if it were constrained to H. By Jensen's inequality the expected loss cannot rise if the task
has the symmetry. An overconfident network would gain from averaging merely because averages are smaller; for this, its
outputs are first scaled by the one factor that suits it best. All this takes ``|G|`` passes over the held-out images.

Elements that the pixel grid cannot do exactly, such as turns by 45 degrees, move images by interpolation, and what
can be told from its traces is no evidence. So for the test (in passes of their own) all copies of an image are turned
by a few degrees more, lest one be sharper than the others, and cut to a disc. Such a test is approximate; for the
quarter turns and mirrors in a large group it stays exact.

The network must not have seen the images. The alphas of a mixture are trained on training images too; where they are
trained on a third of the validation part, the other two thirds are evidence. Images that occur several times, moved or
not, and those of one of the user's ``groups`` are one unit: they stay together on one side of every split and are moved
alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, softmax
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skequinas.evidence.breaks import breaks, rivals
from skequinas.evidence.costs import cost_with_interval
from skequinas.evidence.evalues import adjusted_e_values, log_e_values, mean_of_products
from skequinas.evidence.measures import measured_change
from skequinas.evidence.verdict import Evidence, holm
from skequinas.evidence.witness import Witness, check_witness
from skequinas.groups import PointGroup, Subgroup, fair_offset, group_on_images, parse_group
from skequinas.nn.transforms import circular_mask, transform_images
from skequinas.runtime.process import fitting_state, full_precision
from skequinas.training import DataPart, DivergenceError, frozen, mean_with_error
from skequinas.training.evaluation import EVALUATION_BATCH
from skequinas.training.units import members, sums

__all__ = ["gather_evidence", "orbit_test", "symmetry_evidence"]


_FACTORS = tuple(2.0 ** (k / 4) for k in range(-24, 9))
_BLOCKS = 256
_MOVES = 9999
_PERMUTATIONS = 199


def symmetry_evidence(
    model: Witness,
    X: ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    group: str | PointGroup | Subgroup = "D4",
    crop: str | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> dict[str, Evidence]:
    """Ask a fitted model, on images that it has not seen, which symmetries of a group the data have.

    This is the evidence that the searches gather from a network of their own, see `skequinas.evidence.orbit`. A model
    has something to say only about symmetries that it does not have itself (those that it is constrained to get the
    p-value 1), so an ordinary network, one with ``group="C1"``, is as good a witness as it is a model.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted on other images.
    X, y : array-like
        Images and targets as in ``fit``, held out from it.
    groups : array-like of shape (n,), optional
        Which images are not independent of each other, such as those of one patient: as in ``fit``.
    group : str, PointGroup or Subgroup, default="D4"
        The symmetries to ask about. Of a group that images which are not square cannot be moved by, the rest is asked.
    crop : "random" or None, default=None
        "random" cuts every image at a random place to the size of those that the model was fitted with, so give larger
        ones. This is the control for what a camera or a file format did to images: a symmetry that is broken in whole
        images and not in crops may be broken by that alone, see `skequinas.datasets.random_crops`. Fit on crops too.
    random_state : int, RandomState instance or None, default=None
        Draws the moves of the test, and the places of crops.

    Returns
    -------
    dict of Evidence
        By the name of every subgroup of the group.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, symmetry_evidence
    >>> X, y = load_digits(n_class=4, return_X_y=True)
    >>> model = EquivariantNASClassifier("C1", "none", max_epochs=4, random_state=0).fit(X[:500], y[:500])
    >>> evidence = symmetry_evidence(model, X[500:], y[500:], group="D4", random_state=0)
    >>> evidence["C4"].p_value < 0.01  # digits stand upright
    True
    """
    check_witness(model)
    if crop not in (None, "random"):
        raise ValueError(f"crop={crop!r} must be 'random' or None.")
    asked, rng = parse_group(group), check_random_state(random_state)
    with fitting_state():
        seed = int(rng.randint(np.iinfo(np.int32).max))
        if crop == "random":
            X, groups = model._cropped(X, groups, asked, rng)
        data = model._held_out(X, y, groups, asked)
        moves = group_on_images(asked, *data.images.shape[2:])
        return gather_evidence(model.network_, data, moves, seed)


def gather_evidence(network: nn.Module, data: DataPart, group: PointGroup, seed: int = 0) -> dict[str, Evidence]:
    """The evidence for and against every subgroup, by name, from a network that was not trained on the data.

    Parameters
    ----------
    network : Module
    data : DataPart
        Held-out images.
    group : PointGroup
    seed : int, default=0
        Draws the moves of the test.

    Raises
    ------
    DivergenceError
        When an output is not finite.
    """
    outputs, weights, units = outputs_of_copies(network, data, group), data.sample_weights(), data.units
    scores, losses = averaged_over_subgroups(outputs, data, group)
    chance = _chance_p_value(outputs[0], data, np.random.default_rng(seed))
    asked = outputs_to_test(network, data, group) if fair_offset(group) else outputs
    logs = orbit_log_probabilities(asked, data)
    rng = np.random.default_rng(seed)
    tested = [h for h in group.subgroups if h.order > 1]
    n_moves = max(_MOVES, 1000 * (len(tested) + 1) - 1)  # so that adjusted p-values can be below 0.001
    p_values = {h: orbit_test(logs[:, list(h.elements)], weights, rng, n_moves, units) for h in tested}
    adjusted = holm(p_values)
    best = best_scale(logs, weights)
    rows = rivals(_class_probabilities(asked[0], data, best), data.targets, np.random.default_rng([seed, 1]))
    changes = np.array(list(measured_change(asked.double(), group).values()))
    of_rivals = asked[:, torch.from_numpy(rows).to(asked.device)]
    others = orbit_log_probabilities(of_rivals, data, [best], best_variance(asked, data))[0]
    broken = breaks(logs[best], others, group, weights, units, changes)
    e_values = adjusted_e_values({h: mean_of_products(e) for h, e in log_e_values(logs, group, weights, units).items()})

    def evidence(h: Subgroup) -> Evidence:
        score = mean_with_error(scores[h], weights, units)
        rise = mean_with_error(losses[h] - losses[group.trivial], weights, units)
        p_value = min((adjusted[k] for k in adjusted if k <= h), default=1.0)
        e_value = max((e_values[k] for k in e_values if k <= h), default=1.0)
        cost = cost_with_interval(scores[group.trivial], scores[h], weights, units)
        if h.order == 1:  # which imposes nothing
            cost = cost._replace(cost_low=0.0, cost_high=0.0)
        return Evidence(
            *score,
            *rise,
            p_value=p_value,
            raw_p_value=p_values.get(h, 1.0),
            chance_p_value=chance,
            **cost._asdict(),
            e_value=e_value,
            smallest_break=broken.smallest[h],
            end_p_value=broken.end_p_values[h],
        )

    return {h.name: evidence(h) for h in group.subgroups}


def orbit_test(
    log_probabilities: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
    rng: np.random.Generator,
    n_moves: int = _MOVES,
    units: NDArray[np.int64] | None = None,
) -> float:
    """The p-value of "each image is any of its moved copies, with equal probability".

    Parameters
    ----------
    log_probabilities : ndarray of shape (n_scales, n_copies, n)
        What the network says about the targets of every image, given each copy, at several scales of its confidence;
        those of the images as they are come first. The scale at which the orbits are most likely is taken.
    weights : ndarray of shape (n,), optional
        How much each image counts.
    rng : Generator
        Draws the moves.
    n_moves : int, default=9999
        The smallest possible p-value is ``1 / (n_moves + 1)``.
    units : ndarray of shape (n,), optional
        Which images are not independent of each other. All images of a unit are moved alike.
    """
    sure = np.round(softmax(log_probabilities[best_scale(log_probabilities, weights)], axis=0), 4)  # no tie breaks
    if weights is not None:
        sure = sure * weights
    sure = sums(sure, units)
    blocks = np.stack([block.sum(1) for block in np.array_split(sure, min(_BLOCKS, sure.shape[1]), axis=1)])
    first, observed, as_large = np.arange(len(blocks)) * len(sure), blocks[:, 0].sum(), 0
    for start in range(0, n_moves, _MOVES):
        size = (min(_MOVES, n_moves - start), len(blocks))
        moved = blocks.ravel().take(rng.integers(len(sure), size=size, dtype=np.int16) + first).sum(1)
        as_large += int(np.count_nonzero(moved >= observed * (1 - 1e-6)))
    return float((1 + as_large) / (1 + n_moves))


def best_scale(log_probabilities: NDArray[np.float64], weights: NDArray[np.float64] | None) -> int:
    """The scale at which the orbits, each with an unknown image as the observed one, are most likely."""
    return int(np.argmax(np.average(logsumexp(log_probabilities, axis=1), axis=1, weights=weights)))


def outputs_to_test(network: nn.Module, data: DataPart, group: PointGroup) -> Tensor:
    """The outputs for all copies of all images, none of them sharper than another: (order, n, n_outputs)."""
    return outputs_of_copies(network, data, group, fair_offset(group))


@full_precision()
@torch.inference_mode()
def outputs_of_copies(network: nn.Module, data: DataPart, group: PointGroup, offset: float = 0.0) -> Tensor:
    """The outputs for all images under every element: (order, n, n_outputs)."""
    network = frozen(network)
    parts, disc = [], circular_mask(max(data.images.shape[2:])).to(data.images.device) if offset else None
    for rows in torch.arange(len(data), device=data.images.device).split(EVALUATION_BATCH):
        inputs = data.batch(rows).inputs
        moved = (transform_images(inputs, group, g, offset) for g in group.elements)
        parts.append(torch.stack([network(x if disc is None else x * disc) for x in moved]))
    outputs = torch.cat(parts, 1)
    if not bool(outputs.isfinite().all()):
        raise DivergenceError("The outputs of the network are NaN or infinite, so they are no evidence.")
    return outputs


def averaged_over_subgroups(
    outputs: Tensor, data: DataPart, group: PointGroup
) -> tuple[dict[Subgroup, NDArray[np.float64]], dict[Subgroup, NDArray[np.float64]]]:
    """The scores and losses of all images when the outputs are averaged over each subgroup."""
    objective, targets = data.objective, data.targets
    weights = torch.ones((), device=outputs.device) if data.weights is None else data.weights
    factor = min(_FACTORS, key=lambda s: float((objective.loss(s * outputs[0], targets) * weights).mean()))
    scores, losses = {}, {}
    for h in group.subgroups:
        mean = outputs[list(h.elements)].mean(0)
        scores[h] = 1 - objective.error(mean, targets).double().cpu().numpy()
        losses[h] = objective.loss(factor * mean, targets).double().cpu().numpy()
    return scores, losses


@torch.inference_mode()
def _chance_p_value(outputs: Tensor, data: DataPart, rng: np.random.Generator) -> float:
    """The share of permutations of the targets, the one that was observed among them, with as low a loss."""
    weights = torch.ones((), device=outputs.device) if data.weights is None else data.weights
    losses, groups = [], None if data.units is None else members(data.units)
    for number in range(1 + _PERMUTATIONS):
        order = rng.permutation(data.n_units) if number else np.arange(data.n_units)
        if groups is not None:  # a unit is given the outputs of another, over and over if that is smaller
            order = np.concatenate([np.resize(groups[v], len(own)) for own, v in zip(groups, order, strict=True)])
            order = order[np.argsort(np.concatenate(groups))]
        rows = torch.from_numpy(order).to(outputs.device)
        losses.append((data.objective.loss(outputs[rows], data.targets) * weights).mean())
    values = torch.stack(losses)
    return float((values <= values[0] + 1e-6 * values[0].abs()).double().mean())


def orbit_log_probabilities(
    outputs: Tensor, data: DataPart, scales: Sequence[int] | None = None, variance: float | None = None
) -> NDArray[np.float64]:
    """The logarithm of what the network says about the targets, given each moved copy: (n_scales, order, n).

    It is known up to a constant for each image. The numbers of scales may be given, all by default; and in a regression
    the variance of the errors where the scale is 1, that of each image's best copy by default.

    Raises
    ------
    DivergenceError
        When a logarithm is not finite.
    """
    loss, targets = data.objective.loss, data.targets
    factors = np.array(_FACTORS)[slice(None) if scales is None else list(scales)]
    if data.objective.is_likelihood:
        logs = np.stack([-_losses(loss, scale * outputs, targets) for scale in factors.tolist()])
    else:
        squares, n_targets = _losses(loss, outputs, targets), targets[0].numel()
        variances = (_variance(squares) if variance is None else variance) / factors  # of normal errors
        logs = np.stack([-n_targets / 2 * (squares / v + np.log(v)) for v in variances])
    if not np.isfinite(logs).all():
        raise DivergenceError("What the network says about the targets is NaN or infinite, so it is no evidence.")
    return logs


@torch.inference_mode()
def _class_probabilities(outputs: Tensor, data: DataPart, scale: int) -> NDArray[np.float64] | None:
    """What the network says of every class, (n, n_classes); None where targets are no classes."""
    targets = data.targets
    if not data.objective.is_likelihood or targets.ndim != 1 or targets.is_floating_point():
        return None
    loss, scaled = data.objective.loss, _FACTORS[scale] * outputs[None]
    logs = [-_losses(loss, scaled, torch.full_like(targets, c))[0] for c in range(int(targets.max()) + 1)]
    probabilities: NDArray[np.float64] = np.exp(np.stack(logs, 1))
    return probabilities


def best_variance(outputs: Tensor, data: DataPart) -> float | None:
    """In a regression the mean squared error of each image's best copy."""
    return None if data.objective.is_likelihood else _variance(_losses(data.objective.loss, outputs, data.targets))


def _variance(squares: NDArray[np.float64]) -> float:
    return float(max(squares.min(0).mean(), np.finfo(np.float32).tiny))


def _losses(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> NDArray[np.float64]:
    values: NDArray[np.float64] = torch.stack([loss(moved, targets) for moved in outputs]).double().cpu().numpy()
    return values
