"""Tasks whose symmetry is known, to test whatever claims to find symmetries; and crops, which are a control."""

from skequinas.datasets.camera import camera_symmetry, make_camera_symmetry
from skequinas.datasets.crops import random_crops
from skequinas.datasets.planted import make_planted_symmetry

__all__ = ["camera_symmetry", "make_camera_symmetry", "make_planted_symmetry", "random_crops"]
