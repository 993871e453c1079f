"""What changes the size or the outline of a map, and commutes with every turn and mirror at every size."""

from __future__ import annotations

from torch import Tensor, nn

from skequinas.nn.transforms import circular_mask

__all__ = ["CircularMask", "SymmetricAvgPool2d"]


class CircularMask(nn.Module):
    """Cut square maps to a disc, which looks the same however it is turned.

    Parameters
    ----------
    size : int
        The side of the maps.
    """

    mask: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mask", circular_mask(size), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, size, size) to the same, 0 outside of the disc."""
        return x * self.mask


class SymmetricAvgPool2d(nn.Module):
    """Halve a map so that turns and mirrors of the input turn and mirror the output, at every size.

    An even side is averaged in 2x2 blocks; an odd side in 3x3 windows with stride 2 and padding 1 (which does not
    count), centred on every other pixel. Either way the windows are placed symmetrically about the centre.
    """

    @staticmethod
    def plain(height: int, width: int) -> nn.AvgPool2d:
        """The layer of torch that does the same for maps of this size."""
        odd = height % 2, width % 2
        if odd[0] == odd[1]:
            return nn.AvgPool2d(3, 2, 1, count_include_pad=False) if odd[0] else nn.AvgPool2d(2)
        return nn.AvgPool2d((2 + odd[0], 2 + odd[1]), 2, odd, count_include_pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, height, width) to (batch, channels, ceil(height / 2), ceil(width / 2))."""
        y: Tensor = self.plain(*x.shape[-2:])(x)
        return y
