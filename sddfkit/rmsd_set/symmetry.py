"""Automorphism groups by nauty (McKay & Piperno, doi:10.1016/j.jsc.2013.09.003), independent of our own counting."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.intp]


@dataclass(frozen=True)
class Group:
    """All mappings of a coloured graph onto itself.

    Attributes
    ----------
    order : int
        Their number, to the 15 digits that nauty gives.
    n_orbits : int
        Classes of atoms that they carry into each other.
    generators : list of list of int
        ``generator[i]`` is the atom that i is carried to.
    """

    order: int
    n_orbits: int
    generators: list[list[int]]

    def agrees(self, count: int) -> bool:
        """Say whether an exact count is this order."""
        return abs(count - self.order) <= self.order // 10**12

    def elements(self, limit: int) -> Int | None:
        """(order, n) all mappings, listed by multiplying generators; None if there are more than `limit`."""
        if self.order > limit:
            return None
        n = len(self.generators[0]) if self.generators else 0
        identity = np.arange(n, dtype=np.intp)
        seen = {identity.tobytes(): identity}
        frontier = [identity]
        generators = [np.array(generator, dtype=np.intp) for generator in self.generators]
        while frontier:
            products = [element[generator] for element in frontier for generator in generators]
            frontier = []
            for product in products:
                if (key := product.tobytes()) not in seen:
                    seen[key] = product
                    frontier.append(product)
        return np.array(list(seen.values()))


def automorphisms(elements: Sequence[str], bonds: Sequence[tuple[int, int]]) -> Group:
    """Return the group of a molecular graph: elements are kept, and bonds.

    Raises
    ------
    ArithmeticError
        If nauty returns something that is no automorphism.
    """
    from pynauty import Graph, autgrp

    n = len(elements)
    neighbours: dict[int, list[int]] = {i: [] for i in range(n)}
    for i, j in bonds:
        neighbours[i].append(j)
    colours = [{i for i in range(n) if elements[i] == element} for element in sorted(set(elements))]
    generators, mantissa, exponent, _, n_orbits = autgrp(Graph(n, adjacency_dict=neighbours, vertex_coloring=colours))
    joined = {frozenset(bond) for bond in bonds}
    for generator in generators:
        kept = all(frozenset((generator[i], generator[j])) in joined for i, j in bonds)
        if not kept or any(elements[i] != elements[j] for i, j in enumerate(generator)):
            raise ArithmeticError("nauty returned a mapping that does not keep the graph")
    order = round(Fraction(mantissa) * 10**exponent)
    return Group(order, int(n_orbits), [list(map(int, generator)) for generator in generators or [list(range(n))]])
