"""Laws of the gradients' call for relaxations: projections, level, and that a relaxation that pays is called for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skequinas.evidence import relaxation_p_values
from skequinas.evidence.gradients import _gram, unit_gradients
from skequinas.groups import PointGroup
from skequinas.nn import Architecture, EquivariantNetwork, transform_images
from skequinas.training import CLASSIFICATION, DataPart, TrainingSettings, train

pytestmark = pytest.mark.usefixtures("one_thread")

D4 = PointGroup.from_name("D4")


def network_of(*constraints: str, seed: int = 0) -> EquivariantNetwork:
    architecture = Architecture(D4, 7, 1, 2, (2, 2), (3, 3), (True, False), constraints=constraints)
    return EquivariantNetwork(architecture, torch.Generator().manual_seed(seed))


def part(images: Tensor, targets: Tensor) -> DataPart:
    return DataPart(images, targets, nn.Identity(), CLASSIFICATION)


@pytest.mark.parametrize("name", ["D4", "C4", "D1(45)", "C1"])
def test_inner_products_are_those_of_the_projections(name: str) -> None:
    """Against the projection as a mean over all moves."""
    network = network_of("D4", "D4", "D4")
    for layer in network.convolutions:
        space = layer.space(D4.subgroup(name))
        shape = (5, space.n_coefficients, layer.in_fields * layer.out_fields)
        gradients = np.random.default_rng(0).standard_normal(shape)
        moves = [space.action(h).toarray() for h in space.constraint.elements]
        projected = np.mean([move @ gradients for move in moves], axis=0).reshape(5, -1)
        np.testing.assert_allclose(_gram(gradients, layer, D4.subgroup(name)), projected @ projected.T, atol=1e-9)


def test_unit_gradients_have_length_one_or_zero() -> None:
    gradients = np.random.default_rng(0).standard_normal((3, 4, 5))
    gradients[1] = 0
    np.testing.assert_allclose(np.square(unit_gradients(gradients)).sum((1, 2)), [1, 0, 1])


def test_only_layers_that_are_not_within_the_subgroup_are_asked() -> None:
    images, targets = torch.randn(40, 1, 7, 7), torch.arange(40) % 2
    network = network_of("D4", "C4", "C2")
    rng = np.random.default_rng(0)
    assert list(relaxation_p_values(network, part(images, targets), D4.subgroup("C2"), rng)) == [0, 1]
    assert relaxation_p_values(network, part(images, targets), D4.whole, rng) == {}


def test_nothing_is_called_for_where_the_data_have_the_symmetry_of_the_network() -> None:
    """Images moved at random: the gradient along every relaxation has mean zero, and p-values are nearly uniform."""
    generator, p_values = torch.Generator().manual_seed(0), []
    for seed in range(30):
        images = torch.randn(64, 1, 7, 7, generator=generator)
        moves = torch.randint(0, 8, (64,), generator=generator).tolist()
        moved = torch.cat([transform_images(image[None], D4, g) for image, g in zip(images, moves, strict=True)])
        data = part(moved, torch.randint(0, 2, (64,), generator=generator))
        found = relaxation_p_values(
            network_of("D4", "D4", "D4", seed=seed), data, D4.trivial, np.random.default_rng(seed)
        )
        p_values.append(found[0])
    for level in (0.1, 0.3, 0.6):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * np.sqrt(level * (1 - level) / 30)


def test_a_relaxation_that_pays_is_called_for() -> None:
    """Left or right edge bright: only a network whose head gives up the mirror can tell."""
    generator = torch.Generator().manual_seed(0)
    images = 0.3 * torch.randn(200, 1, 7, 7, generator=generator)
    targets = torch.arange(200) % 2
    images[torch.arange(200), 0, :, :] += torch.where(targets[:, None, None] == 0, 1.0, 0.0) * torch.eye(7)[0]
    images[torch.arange(200), 0, :, :] += torch.where(targets[:, None, None] == 1, 1.0, 0.0) * torch.eye(7)[6]
    network = network_of("D4", "D4", "D4")
    train(network, part(images[:100], targets[:100]), TrainingSettings(batch_size=20), 3, seed=0)
    p_values = relaxation_p_values(network, part(images[100:], targets[100:]), D4.trivial, np.random.default_rng(0))
    assert p_values[2] == 0.001
