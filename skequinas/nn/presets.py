"""The networks that there are names for: one that suits the images, one without shortcuts, and the paper's."""

from __future__ import annotations

import math
from typing import Any

import torch

from skequinas.groups import PointGroup, parse_group
from skequinas.nn.architecture import Architecture

__all__ = ["default_architecture", "paper_architecture", "plain_architecture"]

_SMALL = 12
"""Images of smaller sides get a network without shortcuts, of three layers."""


def _side(image_size: int | tuple[int, int]) -> int:
    """The longer side."""
    return max(image_size) if isinstance(image_size, tuple) else image_size


def default_architecture(
    group: str | PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int = 1,
    n_outputs: int = 1,
    *,
    n_samples: int = 1000,
    device: str | torch.device = "cpu",
    width: int | None = None,
    light: bool = False,
    basis: str = "auto",
    circular_mask: bool | None = None,
) -> Architecture:
    """A network that suits the images, their number and the device.

    Parameters
    ----------
    group : str or PointGroup
        The search group.
    image_size : int or tuple of int
        The side of a square, or (height, width). From 12 pixels on it is a residual network that pools at once, and the
        larger the images, the more layers pool before its blocks; below it is that of `plain_architecture`.
    in_channels, n_outputs, n_samples : int
        The task.
    device : str or torch.device, default="cpu"
        On anything but a CPU, networks for at least 2,000 images are half as wide again, small ones twice.
    width : int, optional
        Channels of the first block, over all the elements of the group; later layers have up to twice as many. The
        nearest number that the order of the group divides is taken.
    light : bool, default=False
        A network of about a third of the arithmetic, for a training of seconds: it pools after every layer for as long
        as there is something to pool, and the first layers have a third of the channels.
    basis, circular_mask
        As in `Architecture`.
    """
    group = parse_group(group)
    small = _side(image_size) < _SMALL
    if width is None and torch.device(device).type != "cpu" and n_samples >= 2000:
        width = 96
    elif width is None:
        width = 48 if small or light else 64
    make = plain_architecture if small else _residual_architecture
    if light:
        make = _light_architecture
    return make(group, image_size, in_channels, n_outputs, width=width, basis=basis, circular_mask=circular_mask)


def plain_architecture(
    group: str | PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int = 1,
    n_outputs: int = 1,
    *,
    width: int = 48,
    basis: str = "auto",
    circular_mask: bool | None = None,
) -> Architecture:
    """A network without shortcuts: two to six layers, whose kernels have 5x5 pixels where images have 16x16 or more.

    Parameters
    ----------
    group, image_size, in_channels, n_outputs, basis, circular_mask
        As in `default_architecture`.
    width : int, default=48
        Channels of the first layers, over all the elements of the group; the last layers have a third more.
    """
    group = parse_group(group)
    narrow, wide = (max(1, round(c / group.order)) for c in (width, 4 / 3 * width))
    side = _side(image_size)
    if side < 6:
        size, pools = 3, "--"
    elif side < 16:
        size, pools = 3, "-p-"
    elif side < 40:
        size, pools = 5, "p-p--"
    else:
        size, pools = 5, "pp-p--"
    fields = (narrow, narrow, *(wide,) * (len(pools) - 2)) if len(pools) > 2 else (narrow, wide)
    pooling = tuple(p == "p" for p in pools)
    shape = image_size, in_channels, n_outputs, fields, (size,) * len(pools), pooling
    return Architecture(group, *shape, basis=basis, circular_mask=circular_mask)


def _residual_architecture(
    group: PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int,
    n_outputs: int,
    *,
    width: int,
    basis: str,
    circular_mask: bool | None,
) -> Architecture:
    """Layers that pool at once, then blocks of two layers and a shortcut, with pooling in between.

    Most of the arithmetic is done on maps of 16x16 pixels and less: one layer pools for every halving that leads there.
    Images of fewer than 24 pixels get two blocks instead of three, since the last maps would have hardly any pixels.
    """
    side = _side(image_size)
    shares = (1, 3 / 2, 2) if side >= 24 else (1, 2)
    first, *widths = (max(1, round(share * width / group.order)) for share in (1, *shares))
    # waves around rings cannot turn on 3x3 pixels
    kernel_size = 3 if basis == "pixel" or (basis == "auto" and group.acts_on_pixels) else 5
    n_stem = 1 + max(0, math.ceil(math.log2(side / 32)))
    fields = [max(1, round(first / 2 ** (n_stem - 1 - i))) for i in range(n_stem)]
    pools, shortcuts = [True] * n_stem, [0] * n_stem
    for number, fields_of_block in enumerate(widths):
        fields += [fields_of_block] * 2
        pools += [False, number < len(widths) - 1]
        shortcuts += [0, 2]
    return Architecture(
        group,
        image_size,
        in_channels,
        n_outputs,
        tuple(fields),
        (kernel_size,) * len(fields),
        tuple(pools),
        shortcuts=tuple(shortcuts),
        hidden=0,
        basis=basis,
        circular_mask=circular_mask,
        statistics="mean and maximum",
    )


def _light_architecture(
    group: PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int,
    n_outputs: int,
    *,
    width: int,
    basis: str,
    circular_mask: bool | None,
) -> Architecture:
    """The network that costs a third of the default one."""
    narrow, wide = (max(1, round(c / group.order)) for c in (width / 3, width))
    side = _side(image_size)
    size = 5 if 16 <= side < 40 else 3
    fields: list[int] = []
    pools: list[bool] = []
    while side >= 10 or len(pools) < 3:
        fields.append(narrow if side >= 16 and len(fields) < 2 else wide)
        pools.append(side >= 10)
        side = side // 2 if pools[-1] else side
    return Architecture(
        group,
        image_size,
        in_channels,
        n_outputs,
        tuple(fields),
        (size,) * len(fields),
        tuple(pools),
        basis=basis,
        circular_mask=circular_mask,
    )


def paper_architecture(
    group: str | PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int = 1,
    n_outputs: int = 1,
    *,
    basis: str = "auto",
    circular_mask: bool | None = None,
    head: str = "constrained",
) -> Architecture:
    """The network of the paper: 8 layers of 16 and 32 fields with kernel 5, pooling after the layers 3, 5 and 7.

    Images of 64 pixels and more are pooled after the sixth too, and have a dense layer of 128 units behind the head.
    What was published differs in that its dense layer sees the last maps without group pooling (``head="free"`` is
    that), has exponential linear units, and in batch norm by channel instead of by field.

    Parameters
    ----------
    group, image_size, in_channels, n_outputs, basis, circular_mask
        As in `default_architecture`.
    head : {"constrained", "free"}, default="constrained"
        As in `Architecture`. It was free in the networks that were published.
    """
    large = _side(image_size) >= 64
    fields = (16, 16, 16, 16, 32, 32, 32, 32)
    pools = tuple(i in (2, 4, 6) or (large and i == 5) for i in range(8))
    shape = image_size, in_channels, n_outputs, fields, (5,) * 8, pools
    options: dict[str, Any] = {"hidden": 128 if large else 64, "basis": basis, "circular_mask": circular_mask}
    return Architecture(parse_group(group), *shape, head=head, **options)
