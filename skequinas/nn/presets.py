"""The networks that there are names for: one that suits the images, and the paper's."""

from __future__ import annotations

from typing import Any

import torch

from skequinas.groups import PointGroup, parse_group
from skequinas.nn.architecture import Architecture

__all__ = ["default_architecture", "paper_architecture"]


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
        The side of a square, or (height, width). Larger images get more layers and larger kernels.
    in_channels, n_outputs, n_samples : int
        The task.
    device : str or torch.device, default="cpu"
        On anything but a CPU, networks for at least 2,000 images are twice as wide.
    width : int, optional
        Channels of the first layers, over all the elements of the group; the last layers have a third more. The
        nearest number that the order of the group divides is taken.
    light : bool, default=False
        A network of about an eighth of the arithmetic, for a training of seconds: it pools after every layer for as
        long as there is something to pool, and the first layers have a third of the channels.
    basis, circular_mask
        As in `Architecture`.
    """
    group = parse_group(group)
    if width is None:
        width = 96 if torch.device(device).type != "cpu" and n_samples >= 2000 else 48
    side = max(image_size) if isinstance(image_size, tuple) else image_size
    if light:
        return _light_architecture(
            group, image_size, in_channels, n_outputs, width, basis=basis, circular_mask=circular_mask
        )
    narrow, wide = (max(1, round(c / group.order)) for c in (width, 4 / 3 * width))
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


def _light_architecture(
    group: PointGroup, image_size: int | tuple[int, int], in_channels: int, n_outputs: int, width: int, **options: Any
) -> Architecture:
    """The network that costs an eighth of the default one."""
    narrow, wide = (max(1, round(c / group.order)) for c in (width / 3, width))
    side = max(image_size) if isinstance(image_size, tuple) else image_size
    size = 5 if 16 <= side < 40 else 3
    fields: list[int] = []
    pools: list[bool] = []
    while side >= 10 or len(pools) < 3:
        fields.append(narrow if side >= 16 and len(fields) < 2 else wide)
        pools.append(side >= 10)
        side = side // 2 if pools[-1] else side
    return Architecture(
        group, image_size, in_channels, n_outputs, tuple(fields), (size,) * len(fields), tuple(pools), **options
    )


def paper_architecture(
    group: str | PointGroup,
    image_size: int | tuple[int, int],
    in_channels: int = 1,
    n_outputs: int = 1,
    *,
    basis: str = "auto",
    circular_mask: bool | None = None,
) -> Architecture:
    """The network of the paper: 8 layers of 16 and 32 fields with kernel 5."""
    fields = (16, 16, 16, 16, 32, 32, 32, 32)
    pools = tuple(i in (1, 3, 5) for i in range(8))
    shape = image_size, in_channels, n_outputs, fields, (5,) * 8, pools
    return Architecture(parse_group(group), *shape, basis=basis, circular_mask=circular_mask)
