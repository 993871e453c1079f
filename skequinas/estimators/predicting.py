"""How a fitted model answers: the same whatever stands beside an image, and by compiled kernels where it can be."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from skequinas.nn.networks import EquivariantNetwork
from skequinas.nn.resting import RestingNetwork

__all__ = ["alone_or_not", "versions"]


def alone_or_not(
    plain: nn.Sequential, network: EquivariantNetwork | None = None, *, reduced: bool = False
) -> Callable[[Tensor], Tensor]:
    """A plain network whose outputs for an image are the same whatever images stand beside it.

    torch convolves a single image by another algorithm than two or more, and how it multiplies by a dense layer depends
    on the number of rows: in single precision the last digit or two. So torch is always given two images, and the
    dense layers are done in double precision and rounded in the end.

    Parameters
    ----------
    plain : Sequential
    network : EquivariantNetwork, optional
        Of the same function. What comes before the dense layers is done by it where compiled kernels make that faster.
    reduced : bool
        Whether these may round what they multiply to bfloat16.
    """
    layers = list(plain.children())
    at = next((i for i, layer in enumerate(layers) if isinstance(layer, nn.Linear)), len(layers))
    features: Callable[[Tensor], Tensor] = nn.Sequential(*layers[:at])
    fewest = 2
    head = copy.deepcopy(nn.Sequential(*layers[at:])).double()
    if network is not None and network.is_fused and at < len(layers) and network.architecture.averaged is None:
        resting = network.at_rest(reduced=reduced)
        features, fewest = resting.features, 1 if isinstance(resting, RestingNetwork) else 2

    def respond(images: Tensor) -> Tensor:
        found = features(images if len(images) >= fewest else torch.cat([images, images]))
        outputs: Tensor = head(found[: len(images)].double())
        return outputs.to(found.dtype)  # and whatever order the rows of the last layer have

    return respond


def versions(*networks: nn.Module) -> tuple[tuple[int, int], ...]:
    """What is another once a tensor of a network was changed or replaced, or the network put into another mode."""
    tensors = (t for network in networks for t in (*network.parameters(), *network.buffers()))
    modes = tuple((int(network.training), 0) for network in networks)
    return modes + tuple((id(t), 0 if t.is_inference() else t._version) for t in tensors)
