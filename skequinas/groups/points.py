r"""Planar point groups, their elements, subgroups and cosets, in exact arithmetic.

The cyclic group :math:`C_N` holds the rotations by multiples of :math:`360/N` degrees, the
dihedral group :math:`D_N` these and :math:`N` mirrors. With the rotation :math:`r` and the mirror
:math:`s` every element is :math:`r^k s^f`, and

.. math:: r^a s^f \, r^b s^g = r^{a + (-1)^f b} s^{f + g} .

Elements are numbered: :math:`r^k` is ``k`` and :math:`r^k s` is ``N + k``; the identity is 0.
Angles are in degrees, counter-clockwise, with the x axis to the right and the y axis up.
The mirror :math:`r^k s` keeps the line at the angle ``axis + 180 k / N`` in place.

A group is a value: frozen, hashable, comparable, and cheap to make. A group makes its subgroups and a subgroup knows
the group that it is part of, which is why the two stand in one file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["PointGroup", "Subgroup"]

_NAME = re.compile(r"\s*([CcDd])\s*([0-9]+)\s*(?:\(\s*([0-9.]+)\s*°?\s*\))?\s*")

_HINT = (
    "Use 'C' (rotations) or 'D' (rotations and mirrors) and the number of rotations, such as 'C1', 'C4', 'D4', or "
    "'D1(90)' to give the angle of the mirror axis in degrees."
)


def _angle(axis: Fraction) -> str:
    """An angle in degrees with as many digits as a reader needs."""
    return f"{float(axis):.5g}"


@dataclass(frozen=True)
class PointGroup:
    r"""The group :math:`C_N` of rotations or :math:`D_N` of rotations and mirrors of the plane.

    Parameters
    ----------
    n_rotations : int
        The number N of rotations, at least 1.
    mirrors : bool, default=False
        Whether the N mirrors belong to the group: :math:`D_N` instead of :math:`C_N`.
    axis : Fraction, default=0
        The angle in degrees of the first mirror axis; it is reduced modulo 180 / N.

    Examples
    --------
    >>> from skequinas.groups import PointGroup
    >>> D4 = PointGroup.from_name("D4")
    >>> D4.order, [str(h) for h in D4.subgroups]  # doctest: +NORMALIZE_WHITESPACE
    (8, ['D4', 'C4', 'D2(0)', 'D2(45)', 'C2', 'D1(0)', 'D1(45)', 'D1(90)', 'D1(135)', 'C1'])
    """

    n_rotations: int
    mirrors: bool = False
    axis: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        if self.n_rotations < 1:
            raise ValueError(f"n_rotations={self.n_rotations} must be at least 1.")
        axis = Fraction(self.axis) % Fraction(180, self.n_rotations) if self.mirrors else Fraction(0)
        object.__setattr__(self, "axis", axis)

    def __reduce__(self) -> tuple[Any, ...]:
        return PointGroup, (self.n_rotations, self.mirrors, self.axis)  # without what is cached

    @staticmethod
    def from_name(name: str) -> PointGroup:
        """Parse a name such as "C4", "d4" or "D1(90)" (a mirror axis at 90 degrees)."""
        if not isinstance(name, str):
            raise ValueError(f"group={name!r} is not a name. {_HINT}")
        return _group_from_name(name)

    @property
    def name(self) -> str:
        """The name, with the angle of the first mirror axis when it is not horizontal."""
        axis = f"({_angle(self.axis)})" if self.axis else ""
        return f"{'D' if self.mirrors else 'C'}{self.n_rotations}{axis}"

    def __str__(self) -> str:
        return self.name

    @property
    def order(self) -> int:
        """The number of elements."""
        return self.n_rotations * (2 if self.mirrors else 1)

    def __len__(self) -> int:
        return self.order

    @property
    def elements(self) -> range:
        """The elements, by number."""
        return range(self.order)

    def multiply(self, a: int, b: int) -> int:
        """The product ab: b acts first."""
        n = self.n_rotations
        (f, k), (g, j) = divmod(a, n), divmod(b, n)
        return (f ^ g) * n + (k + (-j if f else j)) % n

    def inverse(self, a: int) -> int:
        """The element that undoes ``a``."""
        return a if a >= self.n_rotations else -a % self.n_rotations

    @cached_property
    def table(self) -> NDArray[np.int64]:
        """The multiplication table: ``table[a, b]`` is ab. Read-only, shape (order, order)."""
        table = np.array([[self.multiply(a, b) for b in self.elements] for a in self.elements])
        table.flags.writeable = False
        return table

    def is_mirror(self, element: int) -> bool:
        """Whether the element reverses orientation."""
        return element >= self.n_rotations

    def angle(self, element: int) -> Fraction:
        """The angle in degrees of a rotation, or of the axis of a mirror."""
        k = element % self.n_rotations
        if self.is_mirror(element):
            return self.axis + Fraction(180 * k, self.n_rotations)
        return Fraction(360 * k, self.n_rotations)

    def element_name(self, element: int) -> str:
        """A readable name, such as "rotation(90)" or "mirror(45)", with the angle in degrees."""
        kind = "mirror" if self.is_mirror(element) else "rotation"
        return f"{kind}({_angle(self.angle(element))})" if element else "identity"

    def matrix(self, element: int) -> NDArray[np.float64]:
        """The 2x2 orthogonal matrix by which the element acts on (x, y)."""
        return self.harmonic(element, 1)

    def harmonic(self, element: int, frequency: int) -> NDArray[np.float64]:
        """The 2x2 matrix by which the element acts on the coefficients of cos(frequency * angle) and the sine."""
        mirror = self.is_mirror(element)
        c, s = _cos_sin(frequency * self.angle(element) * (2 if mirror else 1))
        return np.array([[c, s], [s, -c]] if mirror else [[c, -s], [s, c]])

    @property
    def acts_on_pixels(self) -> bool:
        """Whether every element maps the square pixel grid to itself exactly."""
        return 4 % self.n_rotations == 0 and self.axis % 45 == 0

    @cached_property
    def subgroups(self) -> tuple[Subgroup, ...]:
        """All subgroups, the largest first, the rotations before the mirrors, then by the axis."""
        found = []
        for m in range(self.n_rotations, 0, -1):
            if self.n_rotations % m == 0:
                found.append(Subgroup(self, m))
                if self.mirrors:
                    found += [Subgroup(self, m, k) for k in range(self.n_rotations // m)]
        return tuple(sorted(found, key=lambda h: -h.order))

    @property
    def whole(self) -> Subgroup:
        """The group as a subgroup of itself."""
        return Subgroup(self, self.n_rotations, 0 if self.mirrors else None)

    @property
    def trivial(self) -> Subgroup:
        """The subgroup that holds the identity alone."""
        return Subgroup(self, 1)

    def subgroup(self, name: str) -> Subgroup:
        """The subgroup of that name, for example "C4" or "D1(45)"."""
        wanted = PointGroup.from_name(name)
        for h in self.subgroups:
            if (h.n_rotations, h.as_group.mirrors) == (wanted.n_rotations, wanted.mirrors) and _angle(
                h.as_group.axis
            ) == _angle(wanted.axis):
                return h
        names = ", ".join(h.name for h in self.subgroups)
        raise ValueError(f"{name!r} is not a subgroup of {self}; its subgroups are: {names}.")

    def generate(self, elements: Iterable[int]) -> Subgroup:
        """The smallest subgroup that holds all of the given elements."""
        elements = list(elements)
        n = self.n_rotations
        mirrors = [e - n for e in elements if self.is_mirror(e)]
        step = gcd(n, *(e for e in elements if not self.is_mirror(e)))
        step = gcd(step, *(k - mirrors[0] for k in mirrors))
        return Subgroup(self, n // step, mirrors[0] % step if mirrors else None)


@dataclass(frozen=True)
class Subgroup:
    r"""A subgroup :math:`H \le G`, used as a constraint: "equivariant to exactly these".

    Parameters
    ----------
    group : PointGroup
        The group G that it is part of; its elements are numbered as in ``group``.
    n_rotations : int
        The number m of rotations in H, a divisor of the number N of rotations of the group.
    mirror : int or None, default=None
        The smallest k for which the mirror :math:`r^k s` is in H, below N / m; None without mirrors.
    """

    group: PointGroup
    n_rotations: int
    mirror: int | None = None

    def __post_init__(self) -> None:
        n, m = self.group.n_rotations, self.n_rotations
        if m < 1 or n % m:
            raise ValueError(f"n_rotations={m} does not divide the {n} rotations of {self.group}.")
        if self.mirror is not None and not (self.group.mirrors and 0 <= self.mirror < n // m):
            raise ValueError(f"mirror={self.mirror} is not below {n // m}, or {self.group} has no mirrors.")

    def __reduce__(self) -> tuple[Any, ...]:
        return Subgroup, (self.group, self.n_rotations, self.mirror)

    @cached_property
    def elements(self) -> tuple[int, ...]:
        """The elements of G that are in H, in increasing order; the identity, 0, is the first."""
        n = self.group.n_rotations
        step = n // self.n_rotations
        mirrors = () if self.mirror is None else range(n + self.mirror, 2 * n, step)
        return (*range(0, n, step), *mirrors)

    @property
    def order(self) -> int:
        """The number of elements of H."""
        return self.n_rotations * (1 if self.mirror is None else 2)

    def __len__(self) -> int:
        return self.order

    @property
    def index(self) -> int:
        """The number of cosets, ``|G| / |H|``."""
        return self.group.order // self.order

    @property
    def as_group(self) -> PointGroup:
        """The same symmetries as a group of its own."""
        if self.mirror is None:
            return PointGroup(self.n_rotations)
        axis = self.group.angle(self.group.n_rotations + self.mirror)
        return PointGroup(self.n_rotations, True, axis)

    @property
    def name(self) -> str:
        """The name, with the mirror axis in degrees where G has more than one such subgroup."""
        if self.mirror is None or self.n_rotations == self.group.n_rotations:
            return self.as_group.name
        return f"D{self.n_rotations}({_angle(self.as_group.axis)})"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<{self.name} in {self.group}>"

    def __contains__(self, element: int) -> bool:
        return element in self.elements

    def _check_same_group(self, other: Subgroup) -> None:
        if self.group != other.group:
            raise ValueError(f"{self!r} and {other!r} are subgroups of different groups.")

    def __le__(self, other: Subgroup) -> bool:
        """Whether H is contained in the other subgroup."""
        self._check_same_group(other)
        return set(self.elements) <= set(other.elements)

    def __lt__(self, other: Subgroup) -> bool:
        return self != other and self <= other

    def __and__(self, other: Subgroup) -> Subgroup:
        """The intersection with another subgroup of the same group."""
        self._check_same_group(other)
        return self.group.generate(set(self.elements) & set(other.elements))

    @cached_property
    def subgroups(self) -> tuple[Subgroup, ...]:
        """All subgroups of H, H itself the first, as subgroups of G."""
        return tuple(k for k in self.group.subgroups if k <= self)

    @cached_property
    def maximal_subgroups(self) -> tuple[Subgroup, ...]:
        """The proper subgroups of H with nothing between them and H: one step down the lattice."""
        proper = self.subgroups[1:]
        return tuple(k for k in proper if not any(k < other for other in proper))

    def conjugate(self, element: int) -> Subgroup:
        """The subgroup g H g^-1 for an element g of G."""
        multiply, inverse = self.group.multiply, self.group.inverse(element)
        return self.group.generate(multiply(multiply(element, h), inverse) for h in self.elements)

    @cached_property
    def conjugates(self) -> tuple[Subgroup, ...]:
        """H and the different subgroups that are conjugate to it, in the order of ``G.subgroups``."""
        found = {self.conjugate(g) for g in self.group.elements}
        return tuple(h for h in self.group.subgroups if h in found)

    @cached_property
    def right_cosets(self) -> tuple[tuple[int, ...], ...]:
        """The right cosets H t, each as (h t for h in H) with its smallest element t the first."""
        cosets: list[tuple[int, ...]] = []
        seen: set[int] = set()
        for t in self.group.elements:
            if t not in seen:
                cosets.append(tuple(self.group.multiply(h, t) for h in self.elements))
                seen.update(cosets[-1])
        return tuple(cosets)


@cache
def _group_from_name(name: str) -> PointGroup:
    match = _NAME.fullmatch(name)
    if match is None or int(match[2]) < 1 or (match[1] in "Cc" and match[3]):
        raise ValueError(f"group={name!r} is not the name of a planar point group. {_HINT}")
    n = int(match[2])
    if match[1] in "Cc":
        return PointGroup(n)
    try:
        degrees = Fraction(match[3] or 0)
    except ValueError:
        raise ValueError(f"group={name!r}: the mirror axis {match[3]!r} is not a number of degrees.") from None
    return PointGroup(n, True, degrees)


def _cos_sin(degrees: Fraction) -> tuple[float, float]:
    """Cosine and sine, exact at multiples of a quarter turn."""
    quarter = degrees / 90
    if quarter.denominator == 1:
        return [(1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)][quarter.numerator % 4]
    radians = float(degrees) * np.pi / 180
    return float(np.cos(radians)), float(np.sin(radians))
