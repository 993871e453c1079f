"""Convolutions in streams: fields in shares, each constrained to a subgroup of its own and apart from the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skequinas.groups import Subgroup
from skequinas.nn.layers import EquivariantConv2d, GroupConv2d

__all__ = ["StreamedGroupConv2d", "fields_of_stream"]


def fields_of_stream(stream: int, n_streams: int, n_fields: int, period: int | None = None) -> list[int]:
    """Which fields belong to a stream: they are dealt out in turn, and again from the first one after each period.

    Examples
    --------
    >>> from skequinas.nn.streams import fields_of_stream
    >>> fields_of_stream(1, 2, 6), fields_of_stream(1, 2, 6, period=3)
    ([1, 3, 5], [1, 4])
    """
    return [f for f in range(n_fields) if (f % (period or n_fields)) % n_streams == stream]


class StreamedGroupConv2d(EquivariantConv2d):
    """Convolutions side by side, each constrained to a subgroup of its own, with fields of its own.

    Fields are dealt out to the streams in turn, those that come in and those that go out, and none sees another's. So
    what each one computes keeps its own symmetry, whatever the others are. An image is given to all of them, and
    outputs that are no fields, those of a head, are the sums of all: there streams meet.

    Parameters
    ----------
    constraints : sequence of Subgroup
        One for each stream.
    in_fields, out_fields, kernel_size, regular_in, regular_out, bias, basis, generator
        As in `GroupConv2d`. Of fields there must be one for each stream at least.
    period : int, optional
        Of a head, after how many fields that come in the first stream has its turn again, as where several statistics
        of the same fields follow each other. By default they are dealt out once.

    References
    ----------
    Rath and Condurache, Deep Neural Networks with Efficient Guaranteed Invariances, AISTATS 2023.

    Examples
    --------
    >>> import torch
    >>> from skequinas.groups import PointGroup
    >>> from skequinas.nn import StreamedGroupConv2d
    >>> D4 = PointGroup.from_name("D4")
    >>> layer = StreamedGroupConv2d([D4.subgroup("C4"), D4.subgroup("D1")], 4, 6, kernel_size=3)
    >>> layer(torch.randn(1, 4 * 8, 9, 9)).shape
    torch.Size([1, 48, 9, 9])
    """

    places: Tensor
    bias_places: Tensor | None

    def __init__(
        self,
        constraints: Sequence[Subgroup],
        in_fields: int,
        out_fields: int,
        kernel_size: int,
        *,
        regular_in: bool = True,
        regular_out: bool = True,
        bias: bool = True,
        basis: str = "pixel",
        period: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(constraints, in_fields, out_fields, kernel_size, regular_in, regular_out, basis)
        n = len(self.constraints)
        if min([in_fields] * regular_in + [out_fields] * regular_out, default=n) < n:
            raise ValueError(
                f"in_fields={in_fields} and out_fields={out_fields} must be at least {n}, one field for each stream."
            )
        if period is not None and (regular_out or period < n):
            raise ValueError(
                f"period={period} is for heads (regular_out=False), and at least {n}, one field for each stream."
            )
        if len({h.group for h in self.constraints}) > 1:
            raise ValueError(f"constraints={self.constraints} must be subgroups of one group.")

        def places(number: int) -> Tensor:
            """Of the entries of a stream's kernel in the whole one, whose fields are flattened."""
            outputs = fields_of_stream(number, n, out_fields) if regular_out else list(range(out_fields))
            inputs = fields_of_stream(number, n, in_fields, period) if regular_in else list(range(in_fields))
            return torch.tensor(outputs)[:, None] * in_fields + torch.tensor(inputs)

        of_streams = [places(number) for number in range(n)]
        self.streams = nn.ModuleList(
            GroupConv2d(
                h, own.shape[1], own.shape[0], kernel_size,
                regular_in=regular_in, regular_out=regular_out, basis=basis, generator=generator,
                bias=bias and (h != h.group.whole if regular_out else number == 0),
            )
            for number, (h, own) in enumerate(zip(self.constraints, of_streams, strict=True))
        )  # fmt: skip
        if not regular_out:  # what is added up has the variance of a single one
            with torch.no_grad():
                for stream in self.each:
                    stream.weights.weight.mul_(n**-0.5)
        biased = [own[:, 0] // in_fields for own, stream in zip(of_streams, self.each, strict=True) if stream.is_biased]
        self.register_buffer("places", torch.cat([own.flatten() for own in of_streams]), persistent=False)
        self.register_buffer("bias_places", torch.cat(biased) if biased else None, persistent=False)

    @property
    def each(self) -> list[GroupConv2d]:
        """The convolution of every stream."""
        return list(self.streams)  # type: ignore[arg-type]

    def coefficients(self) -> Tensor:
        """The kernel in its filter basis: (n_coefficients, out fields, in fields)."""
        rows = torch.cat([stream.coefficients().flatten(1) for stream in self.each], 1)
        whole: Tensor = _placed(rows, self.places, self.out_fields * self.in_fields)
        return whole.reshape(-1, self.out_fields, self.in_fields)

    def kernel(self) -> Tensor:
        """The dense kernel, of shape (out channels, in channels, kernel_size, kernel_size)."""
        return self.each[0].weights.spaces[0].sample(self.coefficients())

    def bias_coefficients(self) -> Tensor | None:
        """The bias as a kernel from a trivial input: (n_coefficients, out fields, 1), or None."""
        if self.bias_places is None:
            return None
        rows = [part for part in (stream.bias_coefficients() for stream in self.each) if part is not None]
        return _placed(torch.cat(rows, 1).squeeze(2), self.bias_places, self.out_fields)[:, :, None]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, with zero padding that keeps the size of the map."""
        if not self.regular_out:
            return super().forward(x)
        y, offset = self.without_offset(x), self.offset()
        return y if offset is None else y + offset.reshape(-1, 1, 1)

    def without_offset(self, x: Tensor) -> Tensor:
        """Convolve each stream by itself, for which there may be compiled kernels, and leave the bias to what follows.

        Maps are in channels-last memory then, so that fields can be told apart and put together in one copy.
        """
        if not self.regular_out:
            return super().without_offset(x)
        n, order = len(self.each), self.constraints[0].group.order
        fields = x.permute(0, 2, 3, 1).unflatten(3, (-1, order)) if self.regular_in else None
        found = []
        for number, stream in enumerate(self.each):
            own = x if fields is None else fields[:, :, :, number::n].flatten(3).permute(0, 3, 1, 2)
            found.append(stream.without_offset(own).permute(0, 2, 3, 1).unflatten(3, (-1, order)))
        least = self.out_fields // n
        parts = [torch.stack([y[:, :, :, :least] for y in found], 4).flatten(3, 4)]
        parts += [y[:, :, :, least:] for y in found if y.shape[3] > least]
        together = torch.cat(parts, 3) if len(parts) > 1 else parts[0]
        return together.flatten(3).permute(0, 3, 1, 2)

    @property
    def is_fused(self) -> bool:
        """Whether there are compiled kernels for any stream."""
        return any(stream.is_fused for stream in self.each)

    @torch.no_grad()
    def reorder_outputs(self, order: Tensor, factors: Tensor) -> None:
        """Make output j what output ``order[j]`` was, times ``factors[j]``; without regular_out alone."""
        for stream in self.each:
            stream.reorder_outputs(order, factors)


def _placed(rows: Tensor, places: Tensor, n: int) -> Tensor:
    """Columns put where they belong among n, the others 0."""
    return rows.new_zeros(len(rows), n).index_copy(1, places, rows)
