"""The mathematics of layers: filter bases, kernel spaces, layers, networks and their relaxation."""

from skequinas.nn.architecture import Architecture
from skequinas.nn.bases import FilterBasis, HarmonicBasis, PixelBasis, filter_basis, register_basis
from skequinas.nn.constraints import Constraint
from skequinas.nn.filters import KernelSpace, kernel_space
from skequinas.nn.layers import EquivariantConv2d, GroupConv2d, MixedGroupConv2d
from skequinas.nn.networks import EquivariantNetwork, inherit, relax
from skequinas.nn.norm import OrbitBatchNorm2d
from skequinas.nn.pooling import CircularMask, CoordinateMaps, SymmetricAvgPool2d
from skequinas.nn.presets import default_architecture, paper_architecture, plain_architecture
from skequinas.nn.residual import ResidualGroupConv2d
from skequinas.nn.resting import RestingNetwork
from skequinas.nn.streams import StreamedGroupConv2d
from skequinas.nn.transforms import RandomMoves, RandomShifts, RandomTurns, transform_images, warp_images

__all__ = [
    "Architecture",
    "CircularMask",
    "Constraint",
    "CoordinateMaps",
    "EquivariantConv2d",
    "EquivariantNetwork",
    "FilterBasis",
    "GroupConv2d",
    "HarmonicBasis",
    "KernelSpace",
    "MixedGroupConv2d",
    "OrbitBatchNorm2d",
    "PixelBasis",
    "RandomMoves",
    "RandomShifts",
    "RandomTurns",
    "ResidualGroupConv2d",
    "RestingNetwork",
    "StreamedGroupConv2d",
    "SymmetricAvgPool2d",
    "default_architecture",
    "filter_basis",
    "inherit",
    "kernel_space",
    "paper_architecture",
    "plain_architecture",
    "register_basis",
    "relax",
    "transform_images",
    "warp_images",
]
