"""Laws of the kernel spaces: what is equivariant, and that relaxing is exact and tightening is a projection."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from skequinas.groups import PointGroup, Subgroup
from skequinas.nn import KernelSpace, kernel_space, transform_images
from skequinas.nn.filters import expand, orbit_tables

pytestmark = pytest.mark.usefixtures("one_thread")

C4, D4 = PointGroup.from_name("C4"), PointGroup.from_name("D4")
PIXEL_GROUPS = [
    PointGroup.from_name(n) for n in ("C1", "C2", "C4", "D1", "D1(45)", "D1(90)", "D1(135)", "D2", "D2(45)", "D4")
]
NO_PIXEL_GROUPS = [PointGroup.from_name(n) for n in ("C3", "C8", "D3", "D8", "D1(22.5)", "D2(22.5)")]

FIELDS_IN, FIELDS_OUT = 2, 3
LIFTING, HIDDEN, HEAD, BIAS = (False, True), (True, True), (True, False), (False, True)
FORMS = {
    f"{name}, kernel {size}": (size, *regular)
    for name, regular, sizes in [("lifting", LIFTING, (1, 3, 5)), ("hidden", HIDDEN, (1, 3, 5)), ("head", HEAD, (1, 3))]
    for size in sizes
}

Form = tuple[int, bool, bool]
Edge = tuple[Subgroup, Subgroup]
Act = Callable[..., Tensor]


@pytest.fixture(params=list(FORMS.values()), ids=list(FORMS))
def form(request: pytest.FixtureRequest) -> Form:
    """Kernel size, regular_in, regular_out."""
    f: Form = request.param
    return f


def random_weights(space: KernelSpace) -> Tensor:
    """Free weights of the space, the same at each call."""
    generator = torch.Generator().manual_seed(space.n_free)
    return torch.randn(space.n_free, FIELDS_OUT, FIELDS_IN, generator=generator, dtype=torch.float64)


def random_kernel(space: KernelSpace, seed: int = 0) -> Tensor:
    """A dense kernel without any symmetry."""
    shape = (
        FIELDS_OUT * space.multiplicity_out,
        FIELDS_IN * space.multiplicity_in,
        space.basis.kernel_size,
        space.basis.kernel_size,
    )
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expanded(space: KernelSpace, weights: Tensor) -> Tensor:
    """The dense kernel of free weights."""
    return space.sample(space.expand(weights))


def relaxed_weights(space: KernelSpace, kernel: Tensor) -> Tensor:
    """The free weights of a dense kernel that lies in the space."""
    return space.relax(space.coefficients(kernel))


def tightened_weights(space: KernelSpace, kernel: Tensor) -> Tensor:
    """The free weights of the nearest kernel in the space."""
    return space.tighten(space.coefficients(kernel))


def moved_kernel(act: Act, space: KernelSpace, kernel: Tensor, h: int) -> Tensor:
    """The kernel with h applied to its output channels, input channels and pixels."""
    dims = [dim for dim, regular in enumerate((space.regular_out, space.regular_in)) if regular]
    return act(kernel, space.constraint.group, h, *dims)


def project(space: KernelSpace, kernel: Tensor) -> Tensor:
    """The nearest kernel in the space."""
    return expanded(space, tightened_weights(space, kernel))


# Pixels


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        (0, [[1, 2], [3, 4]]),
        (1, [[2, 4], [1, 3]]),  # counter-clockwise: the right column becomes the top row
        (2, [[4, 3], [2, 1]]),
        (3, [[3, 1], [4, 2]]),
        (4, [[3, 4], [1, 2]]),  # the horizontal axis stays: top and bottom are exchanged
        (5, [[4, 2], [3, 1]]),
        (6, [[2, 1], [4, 3]]),
        (7, [[1, 3], [2, 4]]),  # the main diagonal, from the top left, is the axis at 135 degrees
    ],
)
def test_images_turn_counter_clockwise_with_the_y_axis_up(element: int, expected: list[list[int]]) -> None:
    assert transform_images(torch.tensor([[1, 2], [3, 4]]), D4, element).tolist() == expected


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("group", PIXEL_GROUPS, ids=str)
def test_pixels_move_as_the_matrices_say(group: PointGroup, size: int) -> None:
    def position(row: int, column: int) -> tuple[float, float]:
        return column - (size - 1) / 2, (size - 1) / 2 - row

    images = torch.eye(size * size).reshape(-1, size, size)  # one image for each pixel, lit there
    for element in group.elements:
        moved = transform_images(images, group, element)
        found = [position(*map(int, image.nonzero()[0])) for image in moved]
        start = [position(*divmod(i, size)) for i in range(size * size)]
        np.testing.assert_array_equal(np.array(start) @ group.matrix(element).T, found)


@pytest.mark.parametrize("size", [1, 4, 5])
@pytest.mark.parametrize("group", PIXEL_GROUPS, ids=str)
def test_the_product_acts_as_the_elements_one_after_the_other(group: PointGroup, size: int) -> None:
    images = torch.randn(2, 3, size, size)
    for a, b in product(group.elements, repeat=2):
        one_by_one = transform_images(transform_images(images, group, b), group, a)
        assert torch.equal(transform_images(images, group, group.multiply(a, b)), one_by_one)


def test_the_product_in_the_other_order_acts_differently() -> None:
    image = torch.arange(16).reshape(4, 4)
    rotation, mirror = 1, 4
    one_by_one = transform_images(transform_images(image, D4, mirror), D4, rotation)
    assert not torch.equal(transform_images(image, D4, D4.multiply(mirror, rotation)), one_by_one)


@pytest.mark.parametrize("group", NO_PIXEL_GROUPS, ids=str)
@pytest.mark.parametrize(
    "use",
    [
        lambda group: kernel_space(group.whole, 3),
        lambda group: kernel_space(group.trivial, 3),
    ],
    ids=["whole", "trivial"],
)
def test_a_group_that_does_not_act_on_pixels_raises_an_error_that_says_which_do(
    use: Callable[[PointGroup], object], group: PointGroup
) -> None:
    with pytest.raises(ValueError, match=r"cannot turn the pixel grid.*'C1', 'C2', 'C4', 'D1', 'D2' or 'D4'") as error:
        use(group)
    assert repr(group.name) in str(error.value)


# The space


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2,), "must be odd"),
        ((0,), "must be odd"),
        ((-3,), "must be odd"),
        ((3, False, False), "At least one of"),
        ((3, True, True, "wavelet"), "basis='wavelet' is unknown. Use one of 'pixel', 'harmonic'"),
    ],
)
def test_spaces_that_do_not_exist_raise_an_error(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kernel_space(D4.whole, *arguments)


def test_a_space_is_made_once() -> None:
    assert kernel_space(D4.whole, 3) is kernel_space(PointGroup.from_name("d4").subgroup("D4"), 3)


def test_the_orbits_partition_the_positions_and_all_have_the_order_of_the_subgroup(
    subgroup: Subgroup, form: Form
) -> None:
    space = kernel_space(subgroup, *form)
    size, regular_in, regular_out = form
    order = subgroup.group.order
    assert space.n_coefficients == size**2 * (order if regular_in else 1) * (order if regular_out else 1)
    assert space.n_free == space.n_coefficients // subgroup.order == len(set(space.representatives))
    orbits = space.matrix.toarray()
    assert orbits.shape == (space.n_coefficients, space.n_free)
    assert (orbits.sum(0) == subgroup.order).all()
    assert (orbits.sum(1) == 1).all()
    assert (orbits[space.representatives] == np.eye(space.n_free)).all()


def test_an_expanded_kernel_is_unchanged_by_exactly_the_elements_of_its_subgroup(
    subgroup: Subgroup, form: Form, act: Act
) -> None:
    space = kernel_space(subgroup, *form)
    kernel = expanded(space, random_weights(space))
    for h in subgroup.group.elements:
        assert torch.equal(moved_kernel(act, space, kernel, h), kernel) == (h in subgroup)


def test_sampling_is_undone_by_reading_the_coefficients(subgroup: Subgroup, form: Form) -> None:
    space = kernel_space(subgroup, *form)
    kernel = random_kernel(space)
    assert torch.equal(space.sample(space.coefficients(kernel)), kernel)
    assert space.coefficients(kernel).shape == (space.n_coefficients, FIELDS_OUT, FIELDS_IN)


# Relaxing and tightening


def test_relaxing_along_an_edge_keeps_the_kernel_bit_for_bit(edge: Edge, form: Form) -> None:
    wide, narrow = (kernel_space(h, *form) for h in edge)
    kernel = expanded(wide, random_weights(wide))
    relaxed = relaxed_weights(narrow, kernel)
    assert torch.equal(expanded(narrow, relaxed), kernel)
    assert relaxed.shape[0] == narrow.n_free == wide.n_free * edge[0].order // edge[1].order


@pytest.mark.parametrize("form", [(3, *LIFTING), (3, *HIDDEN), (1, *HEAD), (1, *BIAS)], ids=str)
def test_relaxing_down_to_C1_keeps_the_kernel_bit_for_bit(chain: list[Subgroup], form: Form) -> None:
    space = kernel_space(chain[0], *form)
    kernel = start = expanded(space, random_weights(space))
    for h in chain[1:]:
        kernel = expanded(kernel_space(h, *form), relaxed_weights(kernel_space(h, *form), kernel))
    assert torch.equal(kernel, start)
    assert torch.equal(
        expanded(space, relaxed_weights(space, kernel)), start
    )  # and up again, as nothing was changed meanwhile


def test_relaxing_to_a_larger_subgroup_does_not_keep_the_kernel(edge: Edge, form: Form) -> None:
    wide, narrow = (kernel_space(h, *form) for h in edge)
    kernel = expanded(narrow, random_weights(narrow))
    assert not torch.allclose(expanded(wide, relaxed_weights(wide, kernel)), kernel, atol=1e-3)


def test_tightening_after_relaxing_is_the_identity(edge: Edge, form: Form) -> None:
    wide, narrow = (kernel_space(h, *form) for h in edge)
    weights = random_weights(wide)
    relaxed = expanded(narrow, relaxed_weights(narrow, expanded(wide, weights)))
    torch.testing.assert_close(tightened_weights(wide, relaxed), weights, rtol=1e-14, atol=1e-14)


def test_tightening_is_the_mean_over_the_subgroup_and_idempotent(subgroup: Subgroup, form: Form, act: Act) -> None:
    space = kernel_space(subgroup, *form)
    kernel = random_kernel(space)
    mean = torch.stack([moved_kernel(act, space, kernel, h) for h in subgroup.elements]).mean(0)
    projected = project(space, kernel)
    torch.testing.assert_close(projected, mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(project(space, projected), projected, rtol=1e-14, atol=1e-14)


def test_tightening_changes_a_kernel_without_symmetry(subgroup: Subgroup, form: Form) -> None:
    space = kernel_space(subgroup, *form)
    kernel = random_kernel(space)
    assert torch.allclose(project(space, kernel), kernel, atol=1e-3) == (subgroup.order == 1)


def test_tightening_gives_the_nearest_kernel_and_the_residue_is_orthogonal(subgroup: Subgroup, form: Form) -> None:
    space = kernel_space(subgroup, *form)
    kernel = random_kernel(space)
    residue = kernel - project(space, kernel)
    for seed in range(3):
        member = project(space, random_kernel(space, seed + 1))
        assert abs((residue * member).sum()) < 1e-11 * kernel.norm() * member.norm()
        for step in (1e-3, 1.0):
            assert (residue + step * member).norm() > residue.norm()
            assert (residue - step * member).norm() > residue.norm()


def test_the_first_weights_of_the_orbits_are_not_the_nearest_kernel() -> None:
    space = kernel_space(D4.whole, 3)
    kernel = random_kernel(space)
    residue = kernel - expanded(space, relaxed_weights(space, kernel))
    assert residue.norm() > 1.1 * (kernel - project(space, kernel)).norm()
    assert abs((residue * project(space, kernel)).sum()) > 1e-3


@pytest.mark.parametrize("form", [(3, *LIFTING), (1, *HEAD)], ids=str)
def test_tightening_in_two_steps_is_tightening_in_one(edge: Edge, form: Form) -> None:
    wide, narrow = (kernel_space(h, *form) for h in edge)
    kernel = random_kernel(wide)
    torch.testing.assert_close(
        tightened_weights(wide, project(narrow, kernel)), tightened_weights(wide, kernel), rtol=1e-13, atol=1e-13
    )


# Gradients


@pytest.mark.parametrize("form", [(3, *LIFTING), (1, *HIDDEN), (1, *HEAD)], ids=str)
def test_the_gradient_of_expand_is_that_of_finite_differences(subgroup: Subgroup, form: Form) -> None:
    space = kernel_space(subgroup, *form)
    weights = random_weights(space)[:, :1, :1].requires_grad_()
    assert torch.autograd.gradcheck(space.expand, (weights,))
    assert torch.autograd.gradgradcheck(space.expand, (weights,))


def test_a_gradient_gathered_from_other_orbits_is_not_that_of_finite_differences() -> None:
    space = kernel_space(D4.subgroup("C4"), 3, *LIFTING)
    weights = random_weights(space)[:, :1, :1].requires_grad_()
    tables = orbit_tables((space,))
    wrong = tables._replace(members=tables.members.roll(4))
    assert torch.autograd.gradcheck(lambda w: expand(w, *tables), (weights,))
    assert not torch.autograd.gradcheck(lambda w: expand(w, *wrong), (weights,), raise_exception=False)


@pytest.mark.parametrize("form", [(3, *LIFTING), (1, *HIDDEN), (1, *HEAD)], ids=str)
def test_several_spaces_are_expanded_to_the_sum_of_their_kernels(form: Form) -> None:
    spaces = tuple(kernel_space(h, *form) for h in (D4.subgroup("C4"), D4.whole, D4.trivial, D4.subgroup("D1(45)")))
    parts = [random_weights(space)[:, :1, :1].requires_grad_() for space in spaces]
    tables = orbit_tables(spaces)
    assert tables is orbit_tables(spaces)  # made once

    def total(*parts: Tensor) -> Tensor:
        return expand(torch.cat(parts), *tables)

    kernel = sum(space.expand(part) for space, part in zip(spaces, parts, strict=True))
    torch.testing.assert_close(total(*parts), kernel, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(total, parts)
