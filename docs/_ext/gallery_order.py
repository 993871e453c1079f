"""The order of the examples in the gallery: from the first steps on."""

from __future__ import annotations

__all__ = ["GalleryOrder"]

_ORDER = (
    "find_symmetry",
    "differentiable_search",
    "ask_a_model",
    "regression",
    "grid_search",
    "pipeline",
    "another_distribution",
    "finer_turns",
)


class GalleryOrder:
    """A sorting key of sphinx-gallery: the files as listed, all others after them by name."""

    def __init__(self, src_dir: str) -> None:
        self.src_dir = src_dir

    def __call__(self, filename: str) -> tuple[int, str]:
        """The place of a file."""
        name = filename.removeprefix("plot_").removesuffix(".py")
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER), filename)

    def __repr__(self) -> str:
        return "<GalleryOrder>"
