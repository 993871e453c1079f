"""From and to escnn: groups, networks, and the equivariance relaxation morphism for networks of escnn.

This needs the extra ``escnn``: ``pip install 'skequinas[escnn]'``. It is the one file that imports escnn, and what has
to be mended in escnn (version 1.0.11) is mended here, at the import.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Memory
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, lsqr
from torch import Tensor, nn

try:
    import escnn.group._clebsh_gordan as _clebsch_gordan
    import escnn.group._numerical as _numerical
    import escnn.group.irrep as _irrep
    from escnn import gspaces
    from escnn import nn as enn
    from escnn.group import O2, CyclicGroup, DihedralGroup, Group, Representation
    from escnn.nn.modules.conv.r2convolution import _manual_fco1
except ImportError as error:
    raise ImportError(
        "skequinas.interop.escnn needs escnn, which needs NumPy 1 and, to be installed, a Fortran compiler: "
        "pip install 'skequinas[escnn]'."
    ) from error

from skequinas._base import BaseEquivariantNAS
from skequinas.architecture import Architecture
from skequinas.bases import HarmonicBasis
from skequinas.groups import PointGroup, Subgroup
from skequinas.layers import CircularMask, SymmetricAvgPool2d
from skequinas.networks import EquivariantNetwork

__all__ = ["EscnnNetwork", "point_group", "relax_escnn", "to_escnn"]

# escnn hands scikit-learn's randomized_svd an np.matrix, which current versions refuse: nothing with a dihedral group
# can be built. It also draws from NumPy's global generator, so that kernel bases differ from run to run. Without it
# escnn falls back on scipy.linalg.svd, which takes the matrix and is exact and deterministic.
_numerical.randomized_svd = None


def _private_cache() -> str:
    """A folder of the user's for what escnn computes once."""
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(root) / "skequinas" / "escnn"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return tempfile.mkdtemp(prefix="skequinas-escnn-")
    return str(folder)


_memory = Memory(_private_cache(), verbose=0)


def _kept(cached: Any) -> Callable[..., Any]:
    """What escnn computes once and keeps: kept elsewhere, and computed with random numbers of its own."""
    own = _memory.cache(cached.func)

    @wraps(cached.func)
    def call(*args: Any, **options: Any) -> Any:
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        try:
            return own(*args, **options)
        finally:
            np.random.set_state(state)  # noqa: NPY002

    return call


# escnn keeps what it computes in its own folder in site-packages, which may be read-only, and where results may lie
# that the random method gave; and it samples groups with NumPy's global generator. From here on the results are kept in
# a folder of the user's, and that generator is left alone.
_clebsch_gordan._clebsh_gordan_tensor = _kept(_clebsch_gordan._clebsh_gordan_tensor)
_clebsch_gordan._find_tensor_decomposition = _kept(_clebsch_gordan._find_tensor_decomposition)
_irrep._restrict_irrep = _kept(_irrep._restrict_irrep)

_process_subgroup_id = O2._process_subgroup_id


def _axis_within_a_turn(group: O2, subgroup: Any) -> Any:
    """The id of a subgroup of O(2) with the angle of its axis in the range that O(2) takes."""
    axis, *rest = _process_subgroup_id(group, subgroup)
    return (axis if axis is None else axis % (2 * np.pi), *rest)


# The space of a dihedral group refuses restrictions to some of its mirrors: it adds angles up to more than 2 pi.
O2._process_subgroup_id = _axis_within_a_turn


# Groups


def point_group(group: Group | gspaces.GSpace2D) -> PointGroup:
    """The point group of an escnn group or of a gspace of the plane.

    Parameters
    ----------
    group : escnn.group.Group or escnn.gspaces.GSpace2D
        A cyclic or dihedral group, or a space that one acts on. The mirror axis of a space is its own; that of a group
        alone is horizontal, at 0 degrees.

    Returns
    -------
    PointGroup

    Examples
    --------
    >>> from escnn import gspaces
    >>> from skequinas.interop.escnn import point_group
    >>> point_group(gspaces.flipRot2dOnR2(8)).name
    'D8'
    """
    if isinstance(group, gspaces.GSpace2D):
        matrices = [_matrix(group, e) for e in group.fibergroup.elements or ()]  # None if it is infinite
        if matrices:
            return _from_matrices(matrices)
        group = group.fibergroup
    elif isinstance(group, CyclicGroup):
        return PointGroup(group.order())
    elif isinstance(group, DihedralGroup):
        return PointGroup(group.rotation_order, True)
    raise ValueError(
        f"group={group!r} is not a finite group of rotations and reflections of the plane. Use "
        "escnn.gspaces.rot2dOnR2(N) or flipRot2dOnR2(N), or a name such as 'C8' or 'D8'."
    )


def _matrix(space: gspaces.GSpace2D, element: Any) -> NDArray[np.float64]:
    """How an element acts on the plane."""
    matrix: NDArray[np.float64] = np.asarray(space.basespace_action(element), dtype=float)
    return matrix


def _from_matrices(matrices: Iterable[NDArray[np.float64]]) -> PointGroup:
    """The group of these 2x2 matrices."""
    matrices = list(matrices)
    mirrors = [m for m in matrices if np.linalg.det(m) < 0]
    n = len(matrices) - len(mirrors)
    if not mirrors:
        return PointGroup(n)
    axes = [np.degrees(np.arctan2(m[1, 0], m[0, 0])) / 2 % (180 / n) for m in mirrors]
    axis = Fraction(axes[0]).limit_denominator(1000)
    return PointGroup(n, True, axis)


def _space(subgroup: Subgroup) -> gspaces.GSpace2D:
    """The space of escnn on which a subgroup acts."""
    own = subgroup.as_group
    n, axis = own.n_rotations, float(np.radians(float(own.axis)))
    if own.mirrors:
        return gspaces.flip2dOnR2(axis) if n == 1 else gspaces.flipRot2dOnR2(n, axis=axis)
    return gspaces.trivialOnR2() if n == 1 else gspaces.rot2dOnR2(n)


def _numbers(space: gspaces.GSpace2D, subgroup: Subgroup) -> list[int]:
    """For each element of a space's group its number in the search group."""
    matrices = {g: subgroup.group.matrix(g) for g in subgroup.elements}

    def number(element: Any) -> int:
        matrix = _matrix(space, element)
        return min(matrices, key=lambda g: float(np.abs(matrices[g] - matrix).max()))

    return [number(element) for element in space.fibergroup.elements]


def _field(space: gspaces.GSpace2D, subgroup: Subgroup) -> Representation:
    """What our field, indexed by the elements of the search group, is for escnn: it splits into cosets.

    It is built from regular representations by a permutation, so that nothing has to be decomposed numerically.
    """
    fiber, group = space.fibergroup, subgroup.group
    name = f"skequinas {subgroup.name} in {group.name}"  # turns by 180 degrees and a mirror are one group to escnn
    if name not in fiber.representations:
        regular = fiber.regular_representation
        numbers = _numbers(space, subgroup)
        channels = [group.multiply(h, coset[0]) for coset in subgroup.right_cosets for h in numbers]
        change = np.zeros((group.order, group.order))
        for i in range(subgroup.index):
            own = slice(i * subgroup.order, (i + 1) * subgroup.order)
            change[channels[own], own] = regular.change_of_basis
        fiber.representations[name] = Representation(
            fiber, name, regular.irreps * subgroup.index, change, regular.supported_nonlinearities
        )
    return fiber.representations[name]


# Networks


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


def _modules(architecture: Architecture) -> Iterable[nn.Module]:
    """The modules of a network, its weights not set."""
    constraints = [c for c in architecture.constraints if isinstance(c, Subgroup)]
    space = _space(constraints[0])
    current = enn.FieldType(space, [space.trivial_repr] * architecture.in_channels)
    size = architecture.image_size
    if architecture.circular_mask:
        yield _Typed(current, current, CircularMask(size))
    for i, h in enumerate(constraints):
        shape, head = architecture.layer_shape(i), i == len(constraints) - 1
        if i and h != constraints[i - 1]:
            space = _space(h)
            restricted = enn.FieldType(space, [_field(space, h)] * shape["in_fields"])
            yield _Typed(current, restricted, nn.Identity())
            current = restricted
        if head:
            yield enn.PointwiseAdaptiveAvgPool2D(current, 1)
        out = enn.FieldType(space, [space.trivial_repr if head else _field(space, h)] * shape["out_fields"])
        yield _convolution(current, out, shape["kernel_size"], shape["bias"])
        current = out
        if not head or architecture.hidden:
            yield enn.InnerBatchNorm(current)
            yield enn.ReLU(current)
        if not head and architecture.pools[i]:
            yield _Typed(current, current, SymmetricAvgPool2d.plain(size))
            size = (size + 1) // 2
    if architecture.hidden:
        out = enn.FieldType(space, [space.trivial_repr] * architecture.n_outputs)
        yield _convolution(current, out, 1, True)


def _convolution(in_type: enn.FieldType, out_type: enn.FieldType, kernel_size: int, bias: bool) -> enn.R2Conv:
    """A convolution of escnn with the rings and the frequencies of our harmonic basis."""
    rings = HarmonicBasis(kernel_size).rings
    highest = {float(r): m for r, _, m in rings}
    conv = enn.R2Conv(
        in_type,
        out_type,
        kernel_size,
        padding=kernel_size // 2,
        bias=bias,
        rings=[float(r) for r, *_ in rings],
        sigma=[sigma for _, sigma, _ in rings],
        frequencies_cutoff=lambda r: highest[float(r)],
        initialize=False,
    )
    return _with_own_basis(conv)


def _with_own_basis(conv: enn.R2Conv) -> enn.R2Conv:
    """The convolution with a sampled basis of its own.

    Escnn lets all convolutions of the process share one, so that moving one network to another device or type breaks
    the others.
    """
    for name, block in conv.basisexpansion.named_children():
        own = copy.copy(block)
        own._buffers = {key: None if b is None else b.clone() for key, b in block._buffers.items()}
        conv.basisexpansion._modules[name] = own
    return conv


def to_escnn(model: BaseEquivariantNAS | EquivariantNetwork) -> EscnnNetwork:
    """A fitted constrained network as a network of escnn that computes the same.

    Parameters
    ----------
    model : EquivariantNASClassifier, EquivariantNASRegressor or EquivariantNetwork
        In the harmonic basis, without mixed layers. Kernels in the pixel basis cannot be expressed by escnn's R2Conv.

    Returns
    -------
    EscnnNetwork
        A sequence of R2Conv, InnerBatchNorm, ReLU and pooling, in eval mode. It takes a GeometricTensor of preprocessed
        images (``model.preprocessing_(images)``), and gives the outputs of ``model.network_`` as maps of one pixel.
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
    convolutions = [m for m in exported if isinstance(m, enn.R2Conv)]
    norms = [m for m in exported if isinstance(m, enn.InnerBatchNorm)]
    with torch.no_grad():
        for conv, own in zip(convolutions, network.convolutions, strict=False):
            _set_filter(conv, own.kernel(), own.offset())
        for norm, block in zip(norms, (*network.blocks, network.head), strict=False):
            (inner,) = (m for m in norm.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
            inner.load_state_dict(block.norm.state_dict())
            inner.eps, inner.momentum = block.norm.eps, block.norm.momentum
        if network.head.dense is not None:
            dense = network.head.dense
            _set_filter(convolutions[-1], dense.weight[:, :, None, None], dense.bias)
    exported.eval()
    return exported


def _set_filter(conv: enn.R2Conv, kernel: Tensor, bias: Tensor | None) -> None:
    """Give a convolution the weights with which its filter is a given one.

    Raises
    ------
    ValueError
        When the filter is not in the space of the convolution.
    """
    training = conv.training
    conv.train()  # in eval mode it keeps an expanded filter
    solution, rest = _solve(conv.basisexpansion, kernel, conv.weights)
    if rest > 1e-4:
        raise ValueError(
            f"The kernel of {conv} is not in the space of its convolution: a part of {rest:.1e} of it is left over."
        )
    conv.weights.data.copy_(solution)
    if conv.bias is not None:
        expansion = conv.bias_expansion.double().cpu()
        wanted = torch.zeros(len(expansion), dtype=torch.float64) if bias is None else bias.detach().double().cpu()
        conv.bias.data.copy_(torch.linalg.lstsq(expansion, wanted[:, None]).solution[:, 0])
    conv.train(training)


def _solve(expansion: nn.Module, kernel: Tensor, like: Tensor) -> tuple[Tensor, float]:
    """The weights of a basis expansion whose filter is nearest to a kernel, and what is left over, relative to it."""
    n_weights, wanted = like.numel(), kernel.detach().double().cpu().flatten()
    expansion.to("cpu", torch.float64)

    def expand(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            filters: NDArray[np.float64] = expansion(torch.from_numpy(weights.ravel().copy())).flatten().numpy()
        return filters

    def back(filters: NDArray[np.float64]) -> NDArray[np.float64]:
        weights = torch.zeros(n_weights, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            product = (expansion(weights).flatten() * torch.from_numpy(filters.ravel().copy())).sum()
        gradient: NDArray[np.float64] = torch.autograd.grad(product, weights)[0].numpy()
        return gradient

    operator = LinearOperator((wanted.numel(), n_weights), matvec=expand, rmatvec=back, dtype=np.float64)
    solution = lsqr(operator, wanted.numpy(), atol=1e-12, btol=1e-12, iter_lim=1000)[0]
    rest = np.linalg.norm(expand(solution) - wanted.numpy()) / max(float(wanted.norm()), 1e-30)
    expansion.to(like.device, like.dtype)
    return torch.from_numpy(solution), float(rest)


# The morphism


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
    child = _with_own_basis(child).to(conv.weights)
    with torch.no_grad():
        kernel, bias = conv.expand_parameters()
        _set_filter(child, kernel, bias)
    return child


def _cutoff(conv: enn.R2Conv) -> Callable[[float], float]:
    """The highest frequency on each ring: that of the convolution's own basis, or escnn's default if it is higher.

    A convolution does not remember what it was asked for, and its own basis may lack the highest frequency by symmetry.
    """
    default = _manual_fco1(conv.kernel_size // 2)
    own: dict[float, float] = {}
    for element in conv.basisexpansion.get_basis_info():
        radius = round(float(element["radius"]), 6)
        own[radius] = max(own.get(radius, 0), abs(float(element["irrep:frequency"])))

    def cutoff(radius: float) -> float:
        return max(own.get(round(float(radius), 6), 0.0), float(default(radius)))

    return cutoff
