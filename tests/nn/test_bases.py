"""Laws of the harmonic basis: exact in its coefficients for every group, and how exact on pixels."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from skequinas.groups import PointGroup, Subgroup, pixel_elements
from skequinas.nn import (
    Architecture,
    EquivariantNetwork,
    GroupConv2d,
    HarmonicBasis,
    KernelSpace,
    MixedGroupConv2d,
    PixelBasis,
    default_architecture,
    filter_basis,
    inherit,
    kernel_space,
    relax,
    transform_images,
)
from skequinas.nn.filters import expand, mix, orbit_tables

pytestmark = pytest.mark.usefixtures("one_thread")

C4, C8, D4, D8 = (PointGroup.from_name(name) for name in ("C4", "C8", "D4", "D8"))
GROUPS = [PointGroup.from_name(name) for name in ("C8", "D4", "C3", "D5(18)", "D6(7.5)")]
EDGES = [(h, k) for group in GROUPS for h in group.subgroups for k in h.maximal_subgroups]
FORMS = {"lifting": (5, False, True), "hidden": (3, True, True), "head": (1, True, False)}
SIZES = [1, 3, 5, 7, 9]


@pytest.fixture(params=FORMS.values(), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> tuple[int, bool, bool]:
    """Kernel size, regular_in, regular_out."""
    values: tuple[int, bool, bool] = request.param
    return values


@pytest.fixture(params=EDGES, ids=lambda edge: f"{edge[0]} to {edge[1]} in {edge[0].group}")
def edge(request: pytest.FixtureRequest) -> tuple[Subgroup, Subgroup]:
    """A subgroup with one of its maximal subgroups."""
    pair: tuple[Subgroup, Subgroup] = request.param
    return pair


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(space: KernelSpace) -> Tensor:
    return random(space.n_free, 2, 3)


def moved(space: KernelSpace, element: int, coefficients: Tensor) -> Tensor:
    rows = space.action(element) @ coefficients.flatten(1).numpy()
    return torch.from_numpy(rows).reshape(coefficients.shape)


# The atoms


@pytest.mark.parametrize("size", SIZES)
def test_atoms_are_independent_and_fewer_than_pixels(size: int) -> None:
    basis = HarmonicBasis(size)
    assert basis.atoms.shape == (basis.n_atoms, size**2)
    assert basis.n_atoms <= size**2
    assert np.linalg.cond(basis.atoms) < 5


@pytest.mark.parametrize("band_limit", [0.5, 1.0, 2.0, 3.0])
def test_the_band_limit_is_the_highest_frequency_by_distance(band_limit: float) -> None:
    for r, _, highest in HarmonicBasis(9, band_limit).rings[:-1]:
        assert highest <= band_limit * r < highest + 1
    assert HarmonicBasis(9, band_limit).rings[-1][2] == int(3.5 * band_limit)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_the_action_is_a_group_of_orthogonal_matrices(group: PointGroup, size: int) -> None:
    actions = [HarmonicBasis(size).action(group, g).toarray() for g in group.elements]
    np.testing.assert_array_equal(actions[0], np.eye(len(actions[0])))
    for a, b in product(group.elements, repeat=2):
        np.testing.assert_allclose(actions[a] @ actions[b], actions[group.multiply(a, b)], atol=1e-14)
    for action in actions:
        np.testing.assert_allclose(action @ action.T, np.eye(len(action)), atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_quarter_turns_and_their_mirrors_move_the_pixels_of_a_filter(size: int) -> None:
    basis = HarmonicBasis(size)
    coefficients = random(basis.n_atoms).numpy()
    image = torch.tensor(coefficients @ basis.atoms).reshape(size, size)
    for g in D4.elements:
        action = basis.action(D4, g).toarray()
        found = ((action @ coefficients) @ basis.atoms).reshape(size, size)
        np.testing.assert_allclose(found, transform_images(image, D4, g), atol=1e-14)
        assert set(np.unique(action)) <= {-1.0, 0.0, 1.0}  # no round-off from cosines


def filter_at(basis: HarmonicBasis, coefficients: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """The filter between the pixels: from the formula, with the scales of the atoms read off the grid."""
    half = basis.kernel_size // 2
    y, x = np.mgrid[half : -half - 1 : -1, -half : half + 1]
    grid = np.stack([x.ravel(), y.ravel()], 1)
    values, place = np.zeros(len(points)), 0

    def waves(at: NDArray[Any], r: int, sigma: float, m: int) -> NDArray[Any]:
        distance, angle = np.hypot(*at.T), np.arctan2(at[:, 1], at[:, 0])
        both = np.stack([np.cos(m * angle), np.sin(m * angle)]) if m else np.ones((1, len(at)))
        return both * np.exp(-((distance - r) ** 2) / (2 * sigma**2)) * (distance > 1e-9 if m else 1)

    for r, sigma, highest in basis.rings:
        for m in range(highest + 1):
            on_grid = waves(grid, r, sigma, m)
            scale = np.sqrt(np.square(on_grid).sum() / len(on_grid))
            own = coefficients[place : place + len(on_grid)]
            values += own @ waves(points, r, sigma, m) / scale
            place += len(on_grid)
    return values


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_moving_the_coefficients_is_moving_the_filter_in_the_plane(group: PointGroup) -> None:
    basis = HarmonicBasis(5)
    coefficients = random(basis.n_atoms).numpy()
    points = np.random.default_rng(0).uniform(-2, 2, (20, 2))
    for g in group.elements:
        there = points @ group.matrix(g).T
        np.testing.assert_allclose(
            filter_at(basis, basis.action(group, g) @ coefficients, there),
            filter_at(basis, coefficients, points),
            atol=1e-12,
        )


def test_the_basis_is_the_same_every_time_and_made_once() -> None:
    assert filter_basis("harmonic", 5) is filter_basis("harmonic", 5)
    assert filter_basis("pixel", 5) == PixelBasis(5)
    np.testing.assert_array_equal(HarmonicBasis(5).atoms, HarmonicBasis(5).atoms)
    with pytest.raises(ValueError, match="basis='wavelet' is unknown. Use one of 'pixel', 'harmonic'"):
        filter_basis("wavelet", 5)


# The kernel spaces: the laws of the pixel basis, to round-off


def test_an_expanded_kernel_is_unchanged_by_exactly_its_subgroup(
    edge: tuple[Subgroup, Subgroup], form: tuple[int, bool, bool]
) -> None:
    for h in edge:
        space = kernel_space(h, *form, "harmonic")
        coefficients = space.expand(weights_of(space))
        for g in h.group.elements:
            same = torch.allclose(moved(space, g, coefficients), coefficients, rtol=0, atol=1e-13)
            assert same == (g in h)


def test_relaxing_keeps_the_kernel_and_tightening_undoes_it(
    edge: tuple[Subgroup, Subgroup], form: tuple[int, bool, bool]
) -> None:
    wide, narrow = (kernel_space(h, *form, "harmonic") for h in edge)
    weights = weights_of(wide)
    coefficients = wide.expand(weights)
    relaxed = narrow.relax(coefficients)
    assert len(relaxed) == narrow.n_free == wide.n_free * edge[0].order // edge[1].order
    torch.testing.assert_close(narrow.expand(relaxed), coefficients, rtol=0, atol=1e-13)
    torch.testing.assert_close(wide.tighten(narrow.expand(relaxed)), weights, rtol=0, atol=1e-13)
    free = narrow.expand(weights_of(narrow))  # of the larger group one cannot read it off
    assert not torch.allclose(wide.expand(wide.relax(free)), free, atol=1e-3)


def test_tightening_is_the_orthogonal_projection(edge: tuple[Subgroup, Subgroup], form: tuple[int, bool, bool]) -> None:
    h = edge[0]
    space = kernel_space(h, *form, "harmonic")
    coefficients = random(space.n_coefficients, 2, 3)
    projected = space.expand(space.tighten(coefficients))
    mean = torch.stack([moved(space, g, coefficients) for g in h.elements]).mean(0)
    torch.testing.assert_close(projected, mean, rtol=0, atol=1e-13)
    assert abs(((coefficients - projected) * projected).sum()) < 1e-10


def test_a_mixture_is_the_sum_of_its_kernels_with_the_gradient_of_finite_differences() -> None:
    spaces = tuple(kernel_space(h, 3, False, True, "harmonic") for h in (C8.whole, C8.subgroup("C2"), C8.trivial))
    parts = [random(space.n_free, 1, 1, seed=i).requires_grad_() for i, space in enumerate(spaces)]
    tables = orbit_tables(spaces)
    torch.testing.assert_close(
        expand(torch.cat(parts), *tables), sum(s.expand(p) for s, p in zip(spaces, parts, strict=True))
    )
    assert torch.autograd.gradcheck(lambda *p: expand(torch.cat(p), *tables), parts)
    wrong = tables._replace(member_factors=tables.member_factors.flip(0))  # type: ignore[union-attr]
    assert not torch.autograd.gradcheck(lambda *p: expand(torch.cat(p), *wrong), parts, raise_exception=False)


@pytest.mark.parametrize("basis", ["pixel", "harmonic"])
@pytest.mark.parametrize("normed", [False, True])
def test_a_weighted_mixture_has_the_gradient_of_finite_differences(basis: str, normed: bool) -> None:
    group = C8 if basis == "harmonic" else C4
    subgroups = (group.whole, group.subgroup("C2"), group.trivial)
    spaces = tuple(kernel_space(h, 3, False, True, basis) for h in subgroups)
    sizes = [space.n_free for space in spaces]
    owner = torch.arange(3, dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
    tables = orbit_tables(spaces)
    weights, norms = random(sum(sizes), 1, 1).requires_grad_(), torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)

    def mixed(w: Tensor, z: Tensor) -> Tensor:
        return mix(w, z, norms if normed else None, owner, sizes, tables)

    parts = zip(spaces, weights.split(sizes), shares, norms, strict=True)
    expected = sum(z * s.expand(w) * (n / w.norm() if normed else 1.0) for s, w, z, n in parts)
    torch.testing.assert_close(mixed(weights, shares), expected)
    assert torch.autograd.gradcheck(mixed, (weights, shares))
    (once,) = torch.autograd.grad(mixed(weights, shares).square().sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()


def test_a_share_of_zero_has_finite_gradients() -> None:
    spaces = tuple(kernel_space(h, 3) for h in (C4.whole, C4.trivial))
    sizes = [space.n_free for space in spaces]
    owner = torch.arange(2, dtype=torch.int32).repeat_interleave(torch.tensor(sizes))
    weights, shares = random(sum(sizes), 1, 1).requires_grad_(), torch.tensor([1.0, 0.0]).double().requires_grad_()
    mix(weights, shares, torch.ones(2).double(), owner, sizes, orbit_tables(spaces)).square().sum().backward()
    assert weights.grad is not None
    assert shares.grad is not None
    assert weights.grad.isfinite().all()
    assert shares.grad.isfinite().all()
    assert not weights.grad[sizes[0] :].any()


def test_coefficients_can_be_read_off_a_dense_kernel(form: tuple[int, bool, bool]) -> None:
    space = kernel_space(C8.whole, *form, "harmonic")
    coefficients = space.expand(weights_of(space))
    torch.testing.assert_close(space.coefficients(space.sample(coefficients)), coefficients, rtol=0, atol=1e-12)


# Layers and networks


@pytest.mark.parametrize("make", [GroupConv2d, lambda h, *s, **k: MixedGroupConv2d(h.group.subgroups, *s, **k)])
def test_a_layer_is_exact_again_in_float64_after_float32(make: Callable[..., Any]) -> None:
    layer = make(C8.whole, 2, 2, 5, basis="harmonic").double()
    again = make(C8.whole, 2, 2, 5, basis="harmonic").double().float().double()
    again.load_state_dict(layer.state_dict())
    torch.testing.assert_close(again.kernel(), layer.kernel(), rtol=0, atol=1e-15)


def architecture(group: PointGroup, *constraints: str, **options: Any) -> Architecture:
    shape = 13, 1, 3, (2, 2), (5, 5), (True, False)
    return Architecture(group, *shape, constraints or (), **{"basis": "harmonic", "hidden": 8} | options)


def trained(a: Architecture) -> EquivariantNetwork:
    """A network with statistics and weights that are not those of the start."""
    network = EquivariantNetwork(a, torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        for i, p in enumerate(network.parameters()):
            p.add_(0.1 * random(*p.shape, seed=i))
    network.train()(random(32, 1, 13, 13))
    return network


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("group", "layer", "to"), [(C8, -1, "C4"), (C8, 0, "C1"), (D8, 1, "D4(22.5)"), (D8, 1, "C8")])
def test_the_morphism_keeps_the_function(group: PointGroup, layer: int, to: str, training: bool) -> None:
    parent = trained(architecture(group)).train(training)
    child = relax(parent, layer, group.subgroup(to))
    x = random(6, 1, 13, 13, seed=1)
    torch.testing.assert_close(child(x), parent(x), rtol=0, atol=1e-11)
    assert child.architecture.n_parameters > parent.architecture.n_parameters
    back = inherit(child, parent.architecture)
    torch.testing.assert_close(back(x), parent(x), rtol=0, atol=1e-11)


def test_quarter_turns_and_mirrors_are_exact_in_a_network_of_a_larger_group() -> None:
    network = trained(architecture(D8)).eval()
    x = random(3, 1, 13, 13)
    exact = pixel_elements(D8)
    assert len(exact) == 8
    with torch.no_grad():
        y = [network(transform_images(x, D8, g)) for g in D8.elements]
    errors = [float((one - y[0]).norm() / (y[0] - y[0].mean(0)).norm()) for one in y]
    assert max(errors[g] for g in exact) < 1e-12
    assert all(errors[g] > 1e-3 for g in D8.elements if g not in exact)  # noise cannot be turned by 45 degrees


def test_the_plain_network_is_the_same_with_the_disc_that_corners_do_not_reach() -> None:
    network = trained(architecture(C8)).float().eval()
    x = random(4, 1, 13, 13).float()
    torch.testing.assert_close(network.to_plain()(x), network(x), rtol=1e-4, atol=1e-5)
    x_else = x.clone()
    x_else[:, :, 0, 0] = 100.0
    assert torch.equal(network(x), network(x_else))
    open_network = trained(architecture(C8, circular_mask=False)).float().eval()
    assert not torch.allclose(open_network(x), open_network(x_else))


def test_auto_is_pixels_where_they_are_exact_and_stands_for_one_of_the_two() -> None:
    for name, basis in (
        ("D4", "pixel"),
        ("D1(45)", "pixel"),
        ("C8", "harmonic"),
        ("D3", "harmonic"),
        ("D2(10)", "harmonic"),
    ):
        a = default_architecture(name, 20)
        assert (a.basis, a.circular_mask) == (basis, basis == "harmonic")
        assert Architecture.from_dict(a.to_dict()) == a
    assert default_architecture("D4", 20, basis="harmonic", circular_mask=True).circular_mask


# On pixels


def smooth_images(size: int = 49) -> Tensor:
    """Noise without what is finer than about 6 pixels, fading out towards the edge."""
    y, x = np.mgrid[:size, :size] - size // 2
    wave = np.fft.fftfreq(size)
    low = np.exp(-(wave[:, None] ** 2 + wave**2) * 7**2 * 2)
    noise = np.random.default_rng(0).standard_normal((4, size, size))
    images = np.fft.ifft2(np.fft.fft2(noise) * low).real * np.exp(-((x**2 + y**2) / (0.2 * size) ** 2))
    return torch.from_numpy(images / images.std())[:, None]


def real_images(size: int = 49) -> Tensor:
    """Digits, drawn larger."""
    images = torch.from_numpy(load_digits().images[:8])[:, None] / 16
    return F.pad(F.interpolate(images, (33, 33), mode="bicubic"), (8,) * 4)


def equivariance_error(basis: HarmonicBasis, images: Tensor, group: PointGroup, element: int) -> float:
    """How far "turn, then filter with the turned filters" is from "filter, then turn", relative to the variation."""
    atoms = torch.tensor(basis.atoms)
    coefficients = random(16, basis.n_atoms)
    turned = torch.from_numpy(basis.action(group, element).toarray())
    size = basis.kernel_size

    def convolved(x: Tensor, c: Tensor) -> Tensor:
        return F.conv2d(x, (c @ atoms).reshape(-1, 1, size, size), padding=size // 2)

    first = transform_images(convolved(images, coefficients), group, element)
    second = convolved(transform_images(images, group, element), coefficients @ turned.T)
    return float((first - second).norm() / (first - first.mean((2, 3), keepdim=True)).norm())


@pytest.mark.parametrize("size", [5, 7, 9])
@pytest.mark.parametrize(("name", "degrees"), [("C8", 45), ("C16", 22.5)])
@pytest.mark.parametrize(("images", "bound"), [(smooth_images(), 0.06), (real_images(), 0.06)], ids=["smooth", "real"])
def test_how_well_filters_turn_on_pixels(name: str, degrees: float, size: int, images: Tensor, bound: float) -> None:
    group = PointGroup.from_name(name)
    assert group.angle(1) == degrees
    errors = [equivariance_error(HarmonicBasis(size, band), images, group, 1) for band in (1.0, 3.0, 4.0)]
    assert errors == sorted(errors)  # with a higher band limit filters turn less well
    assert errors[2] > 5 * errors[0]
    assert equivariance_error(HarmonicBasis(size), images, group, 1) < bound


def test_a_filter_that_is_not_turned_does_not_pass() -> None:
    basis = HarmonicBasis(5)
    identity, turn = C8.elements[:2]
    wrong = equivariance_error(basis, smooth_images(), C8, turn)
    images = smooth_images()
    atoms, c = torch.tensor(basis.atoms), random(16, basis.n_atoms)
    filters = (c @ atoms).reshape(-1, 1, 5, 5)
    first = transform_images(F.conv2d(images, filters, padding=2), C8, turn)
    second = F.conv2d(transform_images(images, C8, turn), filters, padding=2)
    assert float((first - second).norm() / first.norm()) > 5 * wrong
