r"""Which symmetries the data reject, from the gradients of a network that has them all.

Take a network that is invariant to a group S, in eval mode, and the gradient of its loss with respect to its *dense*
kernels, those of the network relaxed to C1 (the relaxation keeps the function, so nothing is trained). Moving
an image by an element g of S permutes the entries of the gradient, since all layers are equivariant to S:

.. math:: \nabla \ell(g x, y) = g \cdot \nabla \ell(x, y) .

If the data look the same after every move by a subgroup H of S, the mean gradient is therefore the same after every h
in H: it lies in the kernel space of H, and what relaxing a layer further could gain is zero. This is Rao's score test
of the hypothesis that the constraint holds. Its level is exact, whatever the number of images: under the hypothesis
each mini-batch may be moved by an element of H of its own, and the sum of the moved gradients is distributed like the
sum as it is. The share of random moves that give a sum as large is a p-value. It takes one backward pass
over images that the network was not trained on.

The first equation holds for quarter turns and mirrors that map the pixel grid to itself, and only for them. Of a model
with a larger symmetry, such as C8, this part, C4, is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from skequinas.evidence.gradients import apply, score_gradients, share_as_large, unit_gradients
from skequinas.evidence.verdict import holm
from skequinas.evidence.witness import Witness, check_witness
from skequinas.groups import Subgroup, pixel_elements
from skequinas.nn.layers import EquivariantConv2d
from skequinas.nn.networks import EquivariantNetwork
from skequinas.runtime.process import fitting_state
from skequinas.training.data import DataPart

__all__ = ["ScoreTest", "score_test"]


@dataclass(frozen=True, eq=False)
class ScoreTest:
    """What the gradients of a symmetric network say about every subgroup of its symmetry.

    Parameters
    ----------
    group : str
        The group S that the network is invariant to, or what of it maps the pixel grid to itself.
    p_values : dict
        From the name of each subgroup H of S but C1 to the p-value of "the data look the same after every move by H",
        from all layers together and the direction, among those of all smaller subgroups, that gains most. Not adjusted
        for the number of tests.
    gains : dict
        From the name of each layer to a dict from each subgroup H smaller than S to the squared norm of the summed
        gradient along what relaxing this layer to H adds, over its expectation under random moves by S. 1 is noise.
    gain_p_values : dict
        The same for the p-value of "the data look the same after every move by S", from that gain alone.
    n_images, n_batches : int
        How many images were used, in how many mini-batches.
    """

    group: str
    p_values: dict[str, float]
    gains: dict[str, dict[str, float]]
    gain_p_values: dict[str, dict[str, float]]
    n_images: int
    n_batches: int

    def adjusted(self) -> dict[str, float]:
        """The p-values of the subgroups, adjusted for their number (Holm): all hold together at the level."""
        return holm(self.p_values)

    def __str__(self) -> str:
        adjusted = self.adjusted()
        p_values = ", ".join(f"{name} {adjusted[name]:.2g}" for name in self.p_values)
        lines = [f"score test within {self.group}, {self.n_images} images in {self.n_batches} mini-batches"]
        lines.append(f"  p-values of the symmetries (adjusted for their number): {p_values}")
        for layer, gains in self.gains.items():
            text = ", ".join(f"{name} {gain:.1f}" for name, gain in gains.items())
            lines.append(f"  {layer}, gain of a relaxation over noise: {text}")
        return "\n".join(lines)


def score_test(
    model: Witness,
    X: ArrayLike,
    y: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    n_batches: int = 64,
    n_moves: int = 999,
    random_state: int | np.random.RandomState | None = None,
) -> ScoreTest:
    """Test which symmetries the data have, by the gradients of a fitted network on images that it has not seen.

    Parameters
    ----------
    model : EquivariantNASClassifier or EquivariantNASRegressor
        Fitted on other images. The subgroups of its learned group are tested, so a model with ``search="none"`` and
        a large group tells most.
    X, y : array-like
        Images and targets as in ``fit``, held out from it.
    groups : array-like of shape (n,), optional
        Which images are not independent of each other, such as those of one patient: as in ``fit``.
    n_batches : int, default=64
        Into how many mini-batches they are divided, at least 2. Each counts alike, whatever the length of its gradient.
        Images that are not independent of each other come into one.
    n_moves : int, default=999
        Random moves; the smallest possible p-value is ``1 / (n_moves + 1)``.
    random_state : int, RandomState instance or None, default=None
        Draws the moves.

    Returns
    -------
    ScoreTest

    References
    ----------
    Rao, Large sample tests of statistical hypotheses concerning several parameters, 1948. The exact level is that of
    a randomisation test, as in Hemerik and Goeman, Exact testing with random permutations, 2018.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier, score_test
    >>> X, y = load_digits(n_class=4, return_X_y=True)
    >>> model = EquivariantNASClassifier("D4", "none", max_epochs=4, random_state=0).fit(X[:500], y[:500])
    >>> test = score_test(model, X[500:], y[500:], random_state=0)
    >>> test.p_values["C4"] < 0.05  # digits stand upright
    True
    """
    check_witness(model)
    averaged = model.network_.architecture.averaged
    if averaged is not None:
        raise ValueError(
            f"The model is an ordinary network averaged over {averaged}: it has no constraints, and these are tested. "
            "Fit one with averaging='none'."
        )
    if n_batches < 2 or n_moves < 1:
        raise ValueError(f"n_batches={n_batches} must be at least 2, and n_moves={n_moves} at least 1.")
    with fitting_state():
        data = model._held_out(X, y, groups)
        if data.n_units < n_batches:
            raise ValueError(
                f"X has {data.n_units} images that are independent of each other, fewer than n_batches={n_batches}. "
                "Reduce n_batches."
            )
        return _score_test(model.network_, data, n_batches, n_moves, check_random_state(random_state))


def _score_test(
    network: EquivariantNetwork, data: DataPart, n_batches: int, n_moves: int, rng: np.random.RandomState
) -> ScoreTest:
    whole, names = network.architecture.symmetry, network.architecture.layer_names
    exact = set(pixel_elements(whole.group))
    symmetry = whole.group.generate(e for e in whole.elements if e in exact)
    if symmetry.order == 1:
        raise ValueError(
            f"The model is constrained to {whole.name}, in which there is no quarter or half turn and no mirror that "
            "maps the pixel grid to itself, so there is nothing to test. Fit one with search='none' and a larger "
            "group, and without augment='group'."
        )
    grams = {
        name: _gram(unit_gradients(gradients), layer, symmetry)
        for name, layer, gradients in zip(
            names, network.convolutions, score_gradients(network, data, n_batches), strict=True
        )
    }
    total = sum(grams.values(), np.zeros((symmetry.order, n_batches, n_batches)))

    def moves(h: Subgroup) -> NDArray[np.int64]:
        """As they are first, then moved at random: (1 + n_moves, n_batches), as places in the group's elements."""
        places = np.array([symmetry.elements.index(e) for e in h.elements])
        drawn = places[rng.randint(len(places), size=(n_moves, n_batches))]
        return np.concatenate([np.zeros((1, n_batches), dtype=np.int64), drawn])

    def gain(gram: NDArray[np.float64], h: Subgroup, k: Subgroup, drawn: NDArray[np.int64]) -> NDArray[np.float64]:
        """The squared norm of what relaxing from h to k adds, over its mean under the moves (by h)."""
        energies = _energies(gram, symmetry, drawn, k) - _energies(gram, symmetry, drawn[:1], h)
        mean = energies.mean()
        return energies / mean if mean > 0 else np.ones_like(energies)

    p_values = {}
    for h in symmetry.subgroups:
        if h.order > 1:  # of all ways to break h, the one that the data call for most
            drawn = moves(h)
            p_values[h.name] = share_as_large(np.max([gain(total, h, k, drawn) for k in h.subgroups[1:]], axis=0))
    gains: dict[str, dict[str, float]] = {name: {} for name in names}
    gain_p_values: dict[str, dict[str, float]] = {name: {} for name in names}
    drawn = moves(symmetry)
    for name, gram in grams.items():
        for k in symmetry.subgroups[1:]:
            gained = gain(gram, symmetry, k, drawn)
            gains[name][k.name], gain_p_values[name][k.name] = float(gained[0]), share_as_large(gained)
    return ScoreTest(symmetry.name, p_values, gains, gain_p_values, len(data), n_batches)


def _gram(gradients: NDArray[np.float64], layer: EquivariantConv2d, symmetry: Subgroup) -> NDArray[np.float64]:
    """Inner products of each mini-batch's gradient with every other that is moved: (order, n_batches, n_batches)."""
    space, flat = layer.space(symmetry), gradients.reshape(len(gradients), -1)
    back = (apply(space.action(h).T, gradients) for h in symmetry.elements)
    return np.stack([moved.reshape(flat.shape) @ flat.T for moved in back])


def _energies(
    gram: NDArray[np.float64], symmetry: Subgroup, moves: NDArray[np.int64], h: Subgroup | None = None
) -> NDArray[np.float64]:
    """The squared norms of the sums of moved gradients, of their part that is the same after every move by h."""
    group, elements = symmetry.group, symmetry.elements
    between = [group.trivial.elements[0]] if h is None else h.elements
    place = {e: i for i, e in enumerate(elements)}

    def relative(a: int, b: int) -> list[int]:
        return [place[group.multiply(group.inverse(a), group.multiply(k, b))] for k in between]

    n, used = gram.shape[1], np.unique(moves)
    moved = [elements[i] for i in used]
    products = np.stack([np.stack([gram[relative(a, b)].mean(0) for b in moved]) for a in moved])
    quadratic = products.swapaxes(1, 2).reshape(len(used) * n, -1)  # by element and mini-batch, twice
    chosen = np.searchsorted(used, moves) * n + np.arange(n)
    energies = []
    for part in np.array_split(chosen, max(1, len(moves) * len(quadratic) // 2_000_000)):
        drawn = np.zeros((len(part), len(quadratic)))
        np.put_along_axis(drawn, part, 1.0, 1)
        energies.append(np.take_along_axis(drawn @ quadratic, part, 1).sum(1))
    return np.concatenate(energies)
