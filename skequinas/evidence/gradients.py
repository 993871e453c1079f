"""What the gradients of held-out images say about relaxing a network's layers, before any is relaxed.

The equivariance relaxation morphism keeps the function, so the gradient of the loss with respect to the *dense*
kernels (their coefficients in the network relaxed to C1) holds the first-order gain of every possible relaxation at
once. Its part in the kernel space of a subgroup, orthogonal to that of the layer's own constraint, is what relaxing the
layer could use. Rao's score test asks whether it is more than the noise from one mini-batch to another.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import sparray
from torch import Tensor

from skequinas.groups import Subgroup
from skequinas.nn.layers import EquivariantConv2d, OrbitConv2d
from skequinas.nn.networks import EquivariantNetwork, inherit
from skequinas.runtime.process import full_precision
from skequinas.training.data import DataPart

__all__ = ["apply", "relaxation_p_values", "score_gradients", "share_as_large", "unit_gradients"]

_BATCHES = 32
_SIGNS = 999


@full_precision()
def score_gradients(network: EquivariantNetwork, data: DataPart, n_batches: int) -> list[NDArray[np.float64]]:
    """For each layer the gradient of every mini-batch by the coefficients of its kernel, free of any constraint.

    It has the shape (n_batches, n_coefficients, out * in fields).
    """
    trivial = network.architecture.group.trivial
    dense = inherit(network, network.architecture.with_constraints((trivial,) * network.architecture.n_layers)).eval()
    weights = [layer.weights.weight for layer in dense.modules() if isinstance(layer, OrbitConv2d)]
    gradients: list[list[Tensor]] = [[] for _ in weights]
    for rows in data.parts(n_batches):
        found = torch.autograd.grad(data.batch(rows).loss(dense, data.objective), weights)
        for own, gradient in zip(gradients, found, strict=True):
            own.append(gradient.flatten(1))
    return [torch.stack(own).double().cpu().numpy() for own in gradients]


def unit_gradients(gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradients of length 1, so that a few images that are hard do not drown all others; moves leave lengths alone."""
    lengths = np.sqrt(np.square(gradients).sum((1, 2), keepdims=True))
    unit: NDArray[np.float64] = gradients / np.where(lengths > 0, lengths, 1.0)
    return unit


def relaxation_p_values(
    network: EquivariantNetwork, data: DataPart, subgroup: Subgroup, rng: np.random.Generator
) -> dict[int, float]:
    """For each layer that is not within a subgroup yet, the p-value of "relaxing it to the subgroup gains nothing".

    Under this hypothesis the mini-batches' gradients, along what the relaxation adds, have mean zero. Their signs are
    drawn at random; the share of draws whose sum is as long is the p-value. It is as good as the distribution of a
    mini-batch's gradient is symmetric, and as a turned image gives the turned gradient: it chooses what to try, and
    decides nothing.

    Parameters
    ----------
    network : EquivariantNetwork
        Without mixed layers and streams.
    data : DataPart
        Held-out images.
    subgroup : Subgroup
    rng : Generator
        Draws the signs.
    """
    if any(len(layer.constraints) > 1 for layer in network.convolutions):
        raise ValueError(f"network has layers with several subgroups ({network.architecture}). Pass one without.")
    n_batches = min(_BATCHES, data.n_units)
    signs = np.concatenate([np.ones((1, n_batches)), rng.choice([-1.0, 1.0], size=(_SIGNS, n_batches))])
    p_values = {}
    layers = zip(network.convolutions, score_gradients(network, data, n_batches), strict=True)
    for number, (layer, gradients) in enumerate(layers):
        own = layer.constraints[0]
        if own <= subgroup:
            continue
        unit = unit_gradients(gradients)
        gram = _gram(unit, layer, own & subgroup) - _gram(unit, layer, own)
        lengths = np.einsum("ij,jk,ik->i", signs, gram, signs)
        p_values[number] = share_as_large(lengths)
    return p_values


def _gram(gradients: NDArray[np.float64], layer: EquivariantConv2d, subgroup: Subgroup) -> NDArray[np.float64]:
    """Inner products of the parts of dense gradients that lie in the kernel space of a subgroup."""
    sums = apply(layer.space(subgroup).matrix.T, gradients).reshape(len(gradients), -1)
    products: NDArray[np.float64] = sums @ sums.T / subgroup.order
    return products


def apply(matrix: sparray, gradients: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix times the coefficients of every mini-batch's gradient: (n_batches, rows of the matrix, ...)."""
    columns = gradients.swapaxes(0, 1)
    product = matrix @ columns.reshape(len(columns), -1)
    moved: NDArray[np.float64] = product.reshape(-1, *columns.shape[1:]).swapaxes(0, 1)
    return moved


def share_as_large(values: NDArray[np.float64]) -> float:
    """The share of values, the first among them, that are at least as large as the first: a p-value."""
    return float(np.mean(values >= values[0] * (1 - 1e-9)))
