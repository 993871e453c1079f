"""Laws of the house: every room imports only rooms that stand above it, and nothing goes round in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import skequinas

ROOMS = (
    "runtime",
    "groups",
    "io",
    "nn",
    "training",
    "evidence",
    "search",
    "estimators",
    "symmetrized",
    "displays",
    "interop",
    "datasets",
)
"""From the top down. `runtime` and `groups` know nobody."""

ROOT = Path(skequinas.__file__).parent


def modules() -> dict[str, Path]:
    """Every module of the package by name."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("skequinas", *path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(source: str, names: set[str]) -> set[str]:
    """The modules of the package that a source imports anywhere, in functions and for type checking too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & names) or {node.module}
    return {name for name in found if name.split(".")[0] == "skequinas"}


ARROWS = {name: imported(path.read_text(), set(MODULES)) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def faults(arrows: dict[str, set[str]]) -> list[str]:
    """Arrows to rooms that stand below, or to the package itself, which knows all rooms."""
    return [
        f"{module} imports {other}"
        for module, others in arrows.items()
        for other in others
        if module != "skequinas"
        and (
            other == "skequinas"
            or ROOMS.index(room(other)) > ROOMS.index(room(module))
            or other == f"skequinas.{room(module)}"
        )
    ]


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """A circle of modules, or nothing."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_file_stands_in_a_room() -> None:
    assert {room(name) for name in MODULES if name != "skequinas"} == set(ROOMS)


def test_no_arrow_goes_to_a_room_below() -> None:
    assert faults(ARROWS) == []


def test_nothing_goes_round_in_a_circle() -> None:
    assert circle(ARROWS) == []


def test_the_two_highest_rooms_know_nobody() -> None:
    for name, others in ARROWS.items():
        if name != "skequinas" and room(name) in ("runtime", "groups"):
            assert {room(other) for other in others} <= {room(name)}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("skequinas.training.monitor", "from skequinas.search import Search"),
        ("skequinas.groups.reading", "def f():\n    from skequinas.interop.escnn import point_group"),
        ("skequinas.nn.layers", "from skequinas import Architecture"),
        ("skequinas.nn.layers", "from skequinas.nn import Architecture"),
        ("skequinas.io.images", "if TYPE_CHECKING:\n    import skequinas.nn.layers"),
    ],
)
def test_a_fault_would_be_seen(module: str, line: str) -> None:
    assert faults({module: imported(line, set(MODULES))}) != []


def test_a_circle_would_be_seen() -> None:
    arrows = ARROWS | {"skequinas.nn.bases": {"skequinas.nn.networks"}}
    assert {"skequinas.nn.bases", "skequinas.nn.networks"} <= set(circle(arrows))


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lengths.items() if n > 400} == {}
