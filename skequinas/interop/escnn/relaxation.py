"""The equivariance relaxation morphism for networks of escnn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch

from skequinas.groups import Subgroup
from skequinas.interop.escnn.filters import set_filter, with_own_basis
from skequinas.interop.escnn.groups import point_group
from skequinas.interop.escnn.library import enn, gspaces, highest_frequency

__all__ = ["relax_escnn"]


_POINTWISE = (
    enn.InnerBatchNorm,
    enn.ReLU,
    enn.ELU,
    enn.GroupPooling,
    enn.PointwiseAvgPool2D,
    enn.PointwiseAvgPoolAntialiased2D,
    enn.PointwiseMaxPool2D,
    enn.PointwiseMaxPoolAntialiased2D,
    enn.PointwiseAdaptiveAvgPool2D,
    enn.PointwiseDropout,
    enn.IdentityModule,
    enn.MaskModule,
)


def relax_escnn(module: enn.SequentialModule, layer: int, subgroup: Any) -> enn.SequentialModule:
    """The equivariance relaxation morphism for a network of escnn: the same function, free to break more symmetries.

    Parameters
    ----------
    module : escnn.nn.SequentialModule
        R2Conv, InnerBatchNorm, ReLU, ELU, pooling, GroupPooling, dropout and masks, one after the other; before the
        layer also a restriction, such as this function makes. It is left as it is.
    layer : int
        Which of its convolutions to relax, from 0; -1 is the last.
    subgroup : str, Subgroup or the id of a subgroup in escnn
        A subgroup of the layer's group, such as "C4".

    Returns
    -------
    escnn.nn.SequentialModule
        The modules before the layer as copies, a restriction, and the layer with all that follow as modules of the
        subgroup: what comes after a broken symmetry cannot have it again. Weights and statistics are taken over; the
        filters differ by round-off. Like all networks of escnn it cannot be pickled: keep its ``state_dict``.

    References
    ----------
    Maile, Wilson and Forré, Equivariance-aware Architectural Optimization of Neural Networks, ICLR 2023.

    Examples
    --------
    >>> from escnn import gspaces, nn
    >>> from skequinas.interop.escnn import relax_escnn
    >>> space = gspaces.rot2dOnR2(8)
    >>> image, fields = nn.FieldType(space, [space.trivial_repr]), nn.FieldType(space, [space.regular_repr])
    >>> parent = nn.SequentialModule(nn.R2Conv(image, fields, 5), nn.ReLU(fields), nn.R2Conv(fields, fields, 5))
    >>> child = relax_escnn(parent, -1, "C4")
    >>> child.out_type.gspace.fibergroup.order()
    4
    """
    modules = list(_flat(module))
    places = [i for i, m in enumerate(modules) if isinstance(m, enn.R2Conv)]
    if not -len(places) <= layer < len(places):
        raise ValueError(f"layer={layer} is none of the {len(places)} convolutions of the module.")
    first = places[layer]
    for m in modules[first:]:
        if not isinstance(m, (enn.R2Conv, *_POINTWISE)):
            raise TypeError(
                f"The layer is followed by a {type(m).__name__}, which relax_escnn cannot restrict. It knows R2Conv, "
                f"{', '.join(kind.__name__ for kind in _POINTWISE)}."
            )
    name = _subgroup_id(modules[first].in_type.gspace, subgroup)
    relaxed = [_retyped(m, m.in_type, m.out_type) for m in modules[:first]]
    relaxed.append(enn.RestrictionModule(modules[first].in_type, name))
    for m in modules[first:]:
        types = m.in_type.restrict(name), m.out_type.restrict(name)
        relaxed.append(_restricted(m, *types) if isinstance(m, enn.R2Conv) else _retyped(m, *types))
    return enn.SequentialModule(*relaxed).train(module.training)


def _flat(module: enn.SequentialModule) -> Iterable[enn.EquivariantModule]:
    """The modules of a sequence, and of the sequences in it."""
    for m in module:
        yield from _flat(m) if isinstance(m, enn.SequentialModule) else (m,)


def _subgroup_id(space: gspaces.GSpace2D, subgroup: Any) -> Any:
    """How escnn calls a subgroup of a space's group."""
    if not isinstance(subgroup, str | Subgroup):
        return subgroup
    whole = point_group(space)
    wanted = whole.subgroup(subgroup if isinstance(subgroup, str) else subgroup.name).as_group
    n = whole.n_rotations
    orders = [m for m in range(1, n + 1) if n % m == 0]
    names: list[Any] = [(None, m) for m in orders] + [(k, m) for m in orders for k in range(n // m)]
    for name in names if whole.mirrors else orders:
        restricted, *_ = space.restrict(name)
        if point_group(restricted) == wanted:
            return name
    raise ValueError(f"subgroup={subgroup!r} was not found among those of {space}.")


def _retyped(module: enn.EquivariantModule, in_type: enn.FieldType, out_type: enn.FieldType) -> enn.EquivariantModule:
    """A copy of a module that acts on each channel, or on each field, by itself, for other types of the same sizes."""
    # in eval mode a convolution keeps a filter that torch will not copy, so it is copied in training mode; types, with
    # all of the group theory behind them, are shared
    training = module.training
    shared = {id(t): t for own in (module.in_type, module.out_type) for t in (own, own.gspace)}
    copied = copy.deepcopy(module.train(), shared).train(training)
    module.train(training)
    copied.in_type, copied.out_type = in_type, out_type
    if hasattr(copied, "space"):
        copied.space = in_type.gspace
    return copied


def _restricted(conv: enn.R2Conv, in_type: enn.FieldType, out_type: enn.FieldType) -> enn.R2Conv:
    """The convolution with the same filter that is equivariant to a subgroup."""
    child = enn.R2Conv(
        in_type,
        out_type,
        conv.kernel_size,
        padding=conv.padding,
        stride=conv.stride,
        dilation=conv.dilation,
        padding_mode=conv.padding_mode,
        groups=conv.groups,
        bias=conv.bias is not None,
        rings=conv._rings,
        sigma=conv._sigma,
        frequencies_cutoff=_cutoff(conv),
        initialize=False,
    )
    child = with_own_basis(child).to(conv.weights)
    with torch.no_grad():
        kernel, bias = conv.expand_parameters()
        set_filter(child, kernel, bias)
    return child


def _cutoff(conv: enn.R2Conv) -> Callable[[float], float]:
    """The highest frequency on each ring: that of the convolution's own basis, or escnn's default if it is higher.

    A convolution does not remember what it was asked for, and its own basis may lack the highest frequency by symmetry.
    """
    default = highest_frequency(conv.kernel_size // 2)
    own: dict[float, float] = {}
    for element in conv.basisexpansion.get_basis_info():
        radius = round(float(element["radius"]), 6)
        own[radius] = max(own.get(radius, 0), abs(float(element["irrep:frequency"])))

    def cutoff(radius: float) -> float:
        return max(own.get(round(float(radius), 6), 0.0), float(default(radius)))

    return cutoff
