"""The bridge to escnn: the same kernel spaces, networks that compute the same, and the morphism for its own networks.

These tests need the extra ``escnn`` and are skipped without it.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import Tensor

from skequinas import EquivariantNASClassifier
from skequinas.groups import PointGroup, Subgroup, parse_group
from skequinas.nn import Architecture, EquivariantNetwork, kernel_space

with warnings.catch_warnings():  # those of escnn and lie_learn are not ours
    warnings.simplefilter("ignore")
    pytest.importorskip("escnn", exc_type=ImportError)
    from escnn import gspaces
    from escnn import nn as enn

    from skequinas.interop.escnn import filters, groups

from skequinas.interop.escnn import point_group, relax_escnn, to_escnn

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SPACES = {
    "C1": gspaces.trivialOnR2(),
    "C3": gspaces.rot2dOnR2(3),
    "C8": gspaces.rot2dOnR2(8),
    "D1(90)": gspaces.flip2dOnR2(),
    "D1": gspaces.flip2dOnR2(axis=0.0),
    "D3(30)": gspaces.flipRot2dOnR2(3),
    "D4": gspaces.flipRot2dOnR2(4),
    "D4(22.5)": gspaces.flipRot2dOnR2(4, axis=np.pi / 8),
    "D5(18)": gspaces.flipRot2dOnR2(5),
}
CONSTRAINTS = [PointGroup.from_name(g).subgroup(h) for g, h in (
    ("C8", "C8"), ("C8", "C4"), ("C8", "C1"), ("D4", "D4"), ("D4", "C4"), ("D4", "D2(45)"), ("D4", "D1(90)"),
    ("D4", "C2"), ("C3", "C3"), ("C16", "C16"), ("D6", "C6"), ("D3", "D3"), ("D3", "D1(60)"), ("D5(18)", "D5(18)"),
    ("D8", "D2(22.5)"),
)]  # fmt: skip


def test_escnn_stays_out_until_it_is_asked_for() -> None:
    code = "import sys, skequinas; sys.exit('escnn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Groups


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_the_group_of_its_matrices(name: str) -> None:
    space, group = SPACES[name], PointGroup.from_name(name)
    assert point_group(space) == parse_group(space) == group
    ours = {tuple(np.round(group.matrix(g), 6).ravel() + 0.0) for g in group.elements}
    theirs = {tuple(np.round(groups._matrix(space, e), 6).ravel() + 0.0) for e in space.fibergroup.elements}
    assert ours == theirs


def test_groups_alone_are_taken_too_and_infinite_ones_are_not() -> None:
    assert point_group(gspaces.rot2dOnR2(6).fibergroup).name == "C6"
    assert point_group(gspaces.flipRot2dOnR2(6).fibergroup).name == "D6"
    for infinite in (gspaces.rot2dOnR2(-1), gspaces.rot2dOnR2(-1).fibergroup):
        with pytest.raises(ValueError, match="not a finite group"):
            point_group(infinite)


def test_an_estimator_takes_a_space_as_its_group(tmp_path: Path) -> None:
    import skequinas

    X, y = load_digits(n_class=3, return_X_y=True)
    space = gspaces.rot2dOnR2(4)
    models = [
        EquivariantNASClassifier(group, "none", max_epochs=1, width=8, random_state=0).fit(X, y)
        for group in (space, "C4", space.fibergroup)
    ]
    answers = [model.predict_proba(X) for model in models]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()
    assert (clone(models[0]).fit(X, y).predict_proba(X) == answers[0]).all()
    assert (pickle.loads(pickle.dumps(models[0])).predict_proba(X) == answers[0]).all()
    skequinas.save(models[0], tmp_path / "model")
    assert skequinas.load(tmp_path / "model").group == PointGroup.from_name("C4")


# The oracle: our kernel spaces are theirs


def permutation(space: Any, subgroup: Subgroup, element: int) -> NDArray[np.float64]:
    """How an element of the group moves the channels of our field."""
    group = subgroup.group
    matrix = np.zeros((group.order, group.order))
    for g in group.elements:
        matrix[group.multiply(element, g), g] = 1
    return matrix


@pytest.mark.parametrize("h", CONSTRAINTS, ids=repr)
def test_our_field_is_a_representation_of_theirs(h: Subgroup) -> None:
    space = groups.space_of(h)
    field = groups.field_of(space, h)
    for element, number in zip(space.fibergroup.elements, groups._numbers(space, h), strict=True):
        np.testing.assert_allclose(groups._matrix(space, element), h.group.matrix(number), atol=1e-6)
        np.testing.assert_allclose(field(element), permutation(space, h, number), atol=1e-6)


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("lifting", [True, False])
@pytest.mark.parametrize("h", CONSTRAINTS, ids=repr)
def test_kernel_spaces_have_the_same_dimension_and_span(h: Subgroup, lifting: bool, size: int) -> None:
    space = groups.space_of(h)
    field = groups.field_of(space, h)
    types = [enn.FieldType(space, [r]) for r in (space.trivial_repr if lifting else field, field)]
    conv = filters.convolution(*types, size, bias=False)
    ours = kernel_space(h, size, not lifting, True, "harmonic")
    assert conv.weights.numel() == ours.n_free
    eye = torch.eye(ours.n_free, dtype=torch.float64)
    like = conv.weights
    some = eye if ours.n_free <= 60 else eye[:: ours.n_free // 40]
    kernels = [ours.sample(ours.expand(unit[:, None, None])) for unit in some]
    assert max(filters._solve(conv.basisexpansion, kernel, like)[1] for kernel in kernels) < 1e-6


@pytest.mark.parametrize("h", CONSTRAINTS, ids=repr)
def test_heads_have_the_same_dimension(h: Subgroup) -> None:
    space = groups.space_of(h)
    types = [enn.FieldType(space, [r]) for r in (groups.field_of(space, h), space.trivial_repr)]
    assert filters.convolution(*types, 1, bias=False).weights.numel() == kernel_space(h, 1, True, False).n_free


def test_a_kernel_without_the_symmetry_is_not_in_their_space() -> None:
    h = PointGroup.from_name("C4").whole
    space = groups.space_of(h)
    field = enn.FieldType(space, [groups.field_of(space, h)])
    conv = filters.convolution(field, field, 3, bias=False)
    kernel = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="not in the space"):
        filters.set_filter(conv, kernel, None)


# Our networks as theirs


def network_of(group: str, *constraints: str, **options: Any) -> EquivariantNetwork:
    n = len(constraints) - 1
    values = {"fields": (2,) * n, "hidden": 4, "basis": "harmonic"} | options
    shape = {"kernel_sizes": (5, 3, 3)[:n], "pools": (True, False, False)[:n], "constraints": constraints}
    a = Architecture(PointGroup.from_name(group), 13, 2, 3, **values, **shape)
    network = EquivariantNetwork(a, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    network.train()(torch.randn(32, 2, 13, 13, generator=generator))
    return network.eval()


def images(space_of: Any, size: int = 13, channels: int = 2) -> Any:
    x = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(2))
    return enn.GeometricTensor(x, space_of.in_type)


NETWORKS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    ("C8", ("C8", "C8", "C8"), {}),
    ("C8", ("C8", "C4", "C2", "C1"), {"hidden": 0}),
    ("D4", ("D4", "D4", "C4"), {"circular_mask": True}),
    ("D4", ("D4", "D2(45)", "D1(135)", "C1"), {}),
    ("D3", ("D3", "C3", "C3"), {}),
    ("D8", ("D8", "D4(22.5)", "D2(22.5)"), {}),
    ("D1(90)", ("D1(90)", "D1(90)", "C1"), {}),
    ("C8", ("C8", "C8", "C8", "C4"), {"shortcuts": (0, 0, 2), "statistics": "mean and maximum"}),
    ("D4", ("D4", "D4", "C4", "C2"), {"shortcuts": (0, 1, 1), "fields": (2, 2, 3), "hidden": 0}),
]


@pytest.mark.parametrize(("group", "constraints", "options"), NETWORKS, ids=lambda v: str(v))
def test_the_network_of_escnn_computes_the_same(
    group: str, constraints: tuple[str, ...], options: dict[str, Any]
) -> None:
    network = network_of(group, *constraints, **options)
    exported = to_escnn(network)
    x = images(exported)
    y = exported(x).tensor.flatten(1)
    expected = network(x.tensor)
    assert float((y - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    sizes = [m.in_type.gspace.fibergroup.order() for m in exported.modules() if isinstance(m, enn.R2Conv)]
    assert sizes[: len(constraints)] == [PointGroup.from_name(group).subgroup(h).order for h in constraints]
    again = pickle.loads(pickle.dumps(exported))
    assert torch.equal(again(x).tensor.flatten(1), y)
    retrained = exported.train()
    assert sum(p.numel() for p in retrained.parameters()) >= sum(p.numel() for p in network.parameters())


def test_a_fitted_model_is_exported_and_can_be_trained_on() -> None:
    X, y = load_digits(n_class=3, return_X_y=True)
    model = EquivariantNASClassifier("C8", "none", max_epochs=2, width=16, random_state=0).fit(X, y)
    network = to_escnn(model)
    x = enn.GeometricTensor(model.preprocessing_(torch.from_numpy(X).reshape(-1, 1, 8, 8)), network.in_type)
    assert (network(x).tensor.flatten(1).softmax(1).argmax(1).numpy() == model.predict(X)).all()
    network.train()
    loss = network(x).tensor.square().mean()
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())


def test_what_cannot_be_exported_says_so() -> None:
    pixel = network_of("D4", "D4", "D4", basis="pixel")
    with pytest.raises(ValueError, match="basis='harmonic'"):
        to_escnn(pixel)
    group = PointGroup.from_name("C4")
    mixed = Architecture(group, 9, 1, 2, (1,), (3,), (False,), (group.subgroups, group.whole), basis="harmonic")
    with pytest.raises(ValueError, match="mixed layers"):
        to_escnn(EquivariantNetwork(mixed))


# The morphism for their networks


def their_network(space: Any) -> Any:
    image = enn.FieldType(space, [space.trivial_repr] * 2)
    fields = enn.FieldType(space, [space.regular_repr] * 2)
    both = enn.FieldType(space, [space.regular_repr, space.trivial_repr])
    torch.manual_seed(0)
    module = enn.SequentialModule(
        enn.R2Conv(image, fields, 7, padding=3),
        enn.InnerBatchNorm(fields),
        enn.ReLU(fields),
        enn.PointwiseAvgPoolAntialiased2D(fields, 0.66, 2),
        enn.R2Conv(fields, both, 5, padding=2, bias=False),
        enn.InnerBatchNorm(both),
        enn.ReLU(both),
        enn.PointwiseMaxPool2D(both, 3, 2),
        enn.R2Conv(both, fields, 3, padding=1),
        enn.GroupPooling(fields),
    )
    for _ in range(2):
        module(enn.GeometricTensor(torch.randn(8, 2, 17, 17), image))
    return module.eval()


@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize(("name", "subgroup"), [
    ("D4", "C4"), ("D4", "D2(0)"), ("D4", "D1(135)"), ("D4", (None, 2)), ("C8", "C4"), ("C8", "C1"), ("C8", 2),
])  # fmt: skip
def test_relaxing_a_network_of_escnn_keeps_its_function(name: str, subgroup: Any, layer: int) -> None:
    parent = their_network(SPACES[name])
    before = {key: value.clone() for key, value in parent.state_dict().items()}
    child = relax_escnn(parent, layer, subgroup)
    x = images(parent, 17)
    y = parent(x).tensor
    assert float((child(x).tensor - y).abs().max()) < 1e-5 * float(y.abs().max())
    assert child.out_type.gspace.fibergroup.order() < parent.out_type.gspace.fibergroup.order()
    assert all(torch.equal(value, parent.state_dict()[key]) for key, value in before.items())  # it is left as it was
    parent.train()
    child.train()
    assert sum(p.numel() for p in child.parameters()) > sum(p.numel() for p in parent.parameters())
    assert float((child(x).tensor - parent(x).tensor).abs().max()) < 1e-4 * float(y.abs().max())


def test_a_relaxed_network_can_break_the_symmetry_and_the_parent_cannot() -> None:
    parent = their_network(SPACES["D4"])
    child = relax_escnn(parent, -1, "C1")

    def error(module: Any) -> float:
        with torch.no_grad():
            for p in module.train().parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(3)))
        x = images(module.eval(), 17).tensor
        x = x.mean(1, keepdim=True).expand(-1, 2, -1, -1)

        def outputs(x: Tensor) -> Tensor:
            return module(enn.GeometricTensor(x.contiguous(), module.in_type)).tensor.mean((2, 3))

        y = outputs(x)
        return float((outputs(x.rot90(1, (-2, -1))) - y).norm() / y.norm())

    assert error(parent) < 1e-5
    assert error(child) > 1e-3


def test_layers_can_be_relaxed_one_after_the_other_and_sequences_in_sequences() -> None:
    parent = their_network(SPACES["D4"])
    nested = enn.SequentialModule(enn.SequentialModule(*list(parent)[:4]), enn.SequentialModule(*list(parent)[4:]))
    child = relax_escnn(relax_escnn(nested.eval(), 1, "C4"), -1, "C2")
    x = images(parent, 17)
    y = parent(x).tensor
    assert float((child(x).tensor - y).abs().max()) < 1e-5 * float(y.abs().max())
    orders = [m.in_type.gspace.fibergroup.order() for m in child if isinstance(m, enn.R2Conv)]
    assert orders == [8, 4, 2]


def test_networks_may_have_another_type() -> None:
    parent = their_network(SPACES["C8"]).double()
    x = enn.GeometricTensor(images(parent, 17).tensor.double(), parent.in_type)
    child = relax_escnn(parent, 1, "C2")
    torch.testing.assert_close(child(x).tensor, parent(x).tensor, rtol=1e-6, atol=1e-6)
    parent.float()  # escnn's own networks share their bases
    network = network_of("C8", "C8", "C4", "C4").double()
    first, second = to_escnn(network), to_escnn(network_of("C8", "C8", "C4", "C4"))
    x = images(first)
    double = enn.GeometricTensor(x.tensor.double(), first.in_type)
    torch.testing.assert_close(first(double).tensor.flatten(1), network(double.tensor), rtol=1e-5, atol=1e-5)
    assert second(x).tensor.dtype == torch.float32  # one network does not change the other
    again = pickle.loads(pickle.dumps(first))
    assert torch.equal(again(double).tensor, first(double).tensor)


def test_what_cannot_be_relaxed_says_so() -> None:
    space = SPACES["C8"]
    fields = enn.FieldType(space, [space.regular_repr])
    parent = their_network(space)
    with pytest.raises(ValueError, match="layer=3 is none of the 3"):
        relax_escnn(parent, 3, "C4")
    with pytest.raises(ValueError, match="'C3' is not a subgroup of C8"):
        relax_escnn(parent, 0, "C3")
    with pytest.raises(TypeError, match="NormPool"):
        relax_escnn(enn.SequentialModule(enn.R2Conv(fields, fields, 3), enn.NormPool(fields)), 0, "C4")


# What is mended in escnn


RUN = {**os.environ, "PYTHONWARNINGS": "ignore"}


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=RUN | environment, capture_output=True, text=True, check=False, timeout=300
    )


BASES = """
import sys, hashlib, numpy as np
import skequinas.interop.escnn
from escnn import gspaces, nn
space = gspaces.flipRot2dOnR2(3)
fields = nn.FieldType(space, [space.regular_repr])
conv = nn.R2Conv(fields, fields, 5, recompute=True, initialize=False)
import torch
filters = conv.basisexpansion(torch.arange(float(conv.weights.numel())))
print(hashlib.sha256(np.round(filters.numpy(), 4).tobytes()).hexdigest(), np.random.random())
"""


def test_dihedral_groups_can_be_built_and_bases_are_the_same_every_time(tmp_path: Path) -> None:
    found = [run("import numpy; numpy.random.seed(7)" + BASES, XDG_CACHE_HOME=str(tmp_path / str(i))) for i in range(2)]
    for result in found:
        assert result.returncode == 0, result.stderr
    assert found[0].stdout == found[1].stdout  # the bases, and NumPy's global generator, which is left alone
    expected = np.random.RandomState(7).random_sample()
    assert float(found[0].stdout.split()[1]) == expected
    assert list((tmp_path / "0").rglob("*.pkl"))  # the cache is the user's


def test_axes_beyond_a_full_turn_are_taken() -> None:
    space = gspaces.flipRot2dOnR2(4)
    restricted = [space.restrict((k, 1))[0] for k in range(4)]
    assert len({point_group(r) for r in restricted}) == 4
