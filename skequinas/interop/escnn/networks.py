"""Our networks as networks of escnn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skequinas.estimators.base import BaseEquivariantNAS
from skequinas.groups import Subgroup
from skequinas.interop.escnn.filters import convolution, set_filter
from skequinas.interop.escnn.groups import field_of, space_of
from skequinas.interop.escnn.library import enn
from skequinas.nn.architecture import Architecture
from skequinas.nn.networks import EquivariantNetwork
from skequinas.nn.pooling import CircularMask, MapStatistics, SymmetricAvgPool2d, add_fields

__all__ = ["EscnnNetwork", "to_escnn"]


class _Typed(enn.EquivariantModule):
    """Apply a function to the tensor, which then belongs to a type with the same or fewer symmetries."""

    def __init__(self, in_type: enn.FieldType, out_type: enn.FieldType, function: nn.Module) -> None:
        super().__init__()
        self.in_type, self.out_type, self.function = in_type, out_type, function

    def forward(self, x: enn.GeometricTensor) -> enn.GeometricTensor:
        assert x.type == self.in_type
        return enn.GeometricTensor(self.function(x.tensor), self.out_type)

    def evaluate_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, _, *size = input_shape
        return (batch, self.out_type.size, *size)


class _Statistics(nn.Module):
    """What the head is given of each channel, as maps of one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.statistics = MapStatistics(maximum=True)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, 2 * channels, 1, 1)."""
        y: Tensor = self.statistics(x)[:, :, None, None]
        return y


class _Shortcut(enn.EquivariantModule):
    """Modules in a row, to the first channels of whose outputs the inputs are added."""

    def __init__(self, *modules: enn.EquivariantModule) -> None:
        super().__init__()
        self.inner = enn.SequentialModule(*modules)
        self.in_type, self.out_type = self.inner.in_type, self.inner.out_type

    def forward(self, x: enn.GeometricTensor) -> enn.GeometricTensor:
        y = self.inner(x)
        add_fields(y.tensor, x.tensor)
        return y

    def evaluate_output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.inner.evaluate_output_shape(input_shape)
        return shape


class EscnnNetwork(enn.SequentialModule):
    """The network of an `Architecture`, made of modules of escnn.

    Modules of escnn cannot be pickled; this one is pickled as its architecture and its state.

    Parameters
    ----------
    architecture : Architecture
        Without mixed layers, and in the harmonic basis.
    """

    def __init__(self, architecture: Architecture) -> None:
        if architecture.is_mixed:
            raise ValueError("A network with mixed layers has no counterpart in escnn. Fit one with discretize=True.")
        if architecture.streams:
            raise ValueError(f"A network in streams ({architecture}) is not written for escnn. Fit one without.")
        if architecture.coordinates != "none":
            raise ValueError(
                f"A network with coordinates={architecture.coordinates!r} is not written for escnn. Fit one without."
            )
        if architecture.averaged is not None:
            raise ValueError(
                f"A network averaged over {architecture.averaged} has no counterpart in escnn. Fit one with "
                "averaging='none'."
            )
        if architecture.basis != "harmonic" and max(architecture.kernel_sizes) > 1:
            raise ValueError(
                f"basis={architecture.basis!r}: the kernels of escnn's R2Conv are rings with circular harmonics, among "
                "which there is none for a single pixel of a corner or an edge, so such a network cannot be expressed "
                "by it. Fit the model with basis='harmonic', or use to_torch(), which gives plain convolutions."
            )
        super().__init__(*_modules(architecture))
        self.architecture = architecture

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.architecture, self.training, self.state_dict())


def _rebuild(architecture: Architecture, training: bool, state: dict[str, Tensor]) -> EscnnNetwork:
    network = EscnnNetwork(architecture)
    network.train(training)
    network.to(next(value for name, value in state.items() if name.endswith("weights")))
    network.load_state_dict(state)
    return network


def _modules(architecture: Architecture) -> list[nn.Module]:
    """The modules of a network, its weights not set."""
    constraints = [c for c in architecture.constraints if isinstance(c, Subgroup)]
    space = space_of(constraints[0])
    current = enn.FieldType(space, [space.trivial_repr] * architecture.in_channels)
    height, width = architecture.image_shape
    modules: list[nn.Module] = []
    starts: list[int] = []  # where the modules of each layer begin
    if architecture.circular_mask:
        modules.append(_Typed(current, current, CircularMask(height)))
    for i, h in enumerate(constraints):
        shape, head = architecture.layer_shape(i), i == len(constraints) - 1
        starts.append(len(modules))
        if i and h != constraints[i - 1]:
            space = space_of(h)
            restricted = enn.FieldType(space, [field_of(space, h)] * architecture.fields[i - 1])
            modules.append(_Typed(current, restricted, nn.Identity()))
            current = restricted
        if head and architecture.statistics == "mean":
            modules.append(enn.PointwiseAdaptiveAvgPool2D(current, 1))
        elif head:
            doubled = enn.FieldType(space, [field_of(space, h)] * shape["in_fields"])
            modules.append(_Typed(current, doubled, _Statistics()))
            current = doubled
        out = enn.FieldType(space, [space.trivial_repr if head else field_of(space, h)] * shape["out_fields"])
        modules.append(convolution(current, out, shape["kernel_size"], shape["bias"]))
        current = out
        if not head or architecture.hidden:
            modules.append(enn.InnerBatchNorm(current))
        if not head and architecture.shortcuts[i]:
            start = starts[i - architecture.shortcuts[i] + 1]
            modules[start:] = [_Shortcut(*modules[start:])]
        if not head or architecture.hidden:
            modules.append(enn.ReLU(current))
        if not head and architecture.pools[i]:
            modules.append(_Typed(current, current, SymmetricAvgPool2d.plain(height, width)))
            height, width = (height + 1) // 2, (width + 1) // 2
    if architecture.hidden:
        out = enn.FieldType(space, [space.trivial_repr] * architecture.n_outputs)
        modules.append(convolution(current, out, 1, True))
    return modules


def to_escnn(model: BaseEquivariantNAS | EquivariantNetwork) -> EscnnNetwork:
    """A fitted constrained network as a network of escnn that computes the same.

    Parameters
    ----------
    model : EquivariantNASClassifier, EquivariantNASRegressor or EquivariantNetwork
        In the harmonic basis, without mixed layers. Kernels in the pixel basis cannot be expressed by escnn's R2Conv.

    Returns
    -------
    EscnnNetwork
        A sequence of R2Conv, InnerBatchNorm, ReLU and pooling, with shortcuts if ours has any, in eval mode. It takes a
        GeometricTensor of preprocessed images (``model.preprocessing_(images)``), and gives the outputs of
        ``model.network_`` as maps of one pixel.
        Every layer is constrained as ours is, so it can be trained on. It can be pickled.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skequinas import EquivariantNASClassifier
    >>> from skequinas.interop.escnn import to_escnn
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> model = EquivariantNASClassifier("C8", "none", max_epochs=1, random_state=0).fit(X, y)
    >>> network = to_escnn(model)
    >>> network.in_type.gspace.fibergroup.order()
    8
    """
    network: EquivariantNetwork = model.network_ if isinstance(model, BaseEquivariantNAS) else model
    exported = EscnnNetwork(network.architecture)
    exported.to(next(network.parameters()))
    convolutions = [m for m in exported.modules() if isinstance(m, enn.R2Conv)]
    norms = [m for m in exported.modules() if isinstance(m, enn.InnerBatchNorm)]
    with torch.no_grad():
        for conv, own in zip(convolutions, network.convolutions, strict=False):
            set_filter(conv, own.kernel(), own.offset())
        for norm, block in zip(norms, (*network.blocks, network.head), strict=False):
            (inner,) = (m for m in norm.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
            inner.load_state_dict(block.norm.state_dict())
            inner.eps, inner.momentum = block.norm.eps, block.norm.momentum
        if network.head.dense is not None:
            dense = network.head.dense
            set_filter(convolutions[-1], dense.weight[:, :, None, None], dense.bias)
    exported.eval()
    return exported
