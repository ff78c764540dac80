"""RMSD of records: each distinct graph is prepared once, and conformers of one molecule share it."""

from __future__ import annotations

import time
from array import array

from flashrmsd_cy._graph import difference
from flashrmsd_cy._molecule import Molecule
from flashrmsd_cy._plan import PlanLimitError
from flashrmsd_cy._threads import share
from flashrmsd_cy.errors import FormatError, NotIsomorphicError, RMSDError, SearchLimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from flashrmsd_cy._search import Search
    from flashrmsd_cy._text import Record, Topology

    Problem = tuple[Record, str]

INFINITY = float("inf")
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
NAIVE_ATOMS = 900  # it calls itself once for each atom
MOST_GRAPHS = 4096  # that are remembered: a file of any length may hold a new one in each record


class Settings:
    """What is compared, and how.

    `time_limit_s` is for each pair, `mapping` says whether matchings are asked for, `level` (1, 2, 3) takes one of the
    plain searches of `_levels`.
    """

    def __init__(
        self,
        *,
        align: bool = False,
        hydrogens: bool = False,
        bond_types: bool = False,
        naive: bool = False,
        mapping: bool = False,
        time_limit_s: float | None = None,
        threads: int = 1,
        level: int | None = None,
    ) -> None:
        self.align, self.hydrogens, self.bond_types, self.naive = align, hydrogens, bond_types, naive
        self.mapping, self.time_limit_s, self.threads, self.level = mapping, time_limit_s, threads, level


class Outcome:
    """One pair. `value` in Å is infinite unless `status` is "exact"; `reason` says why.

    `mapping` holds, for each compared atom of the first record, that atom and its partner in the second, both counted
    from 0 in their records; `rotation` (9 numbers, row by row) and `translation` move the second onto the first.
    """

    __slots__ = ("lower", "mapping", "n_automorphisms", "reason", "rotation", "status", "translation", "upper", "value")

    def __init__(
        self,
        status: Literal["exact", "bound", "failed"],
        lower: float = 0.0,
        upper: float = INFINITY,
        reason: str = "",
        *,
        mapping: tuple[tuple[int, int], ...] = (),
        rotation: tuple[float, ...] = IDENTITY,
        translation: tuple[float, ...] = (0.0, 0.0, 0.0),
        n_automorphisms: int | None = None,
    ) -> None:
        self.status, self.lower, self.upper, self.reason = status, lower, upper, reason
        self.value = upper if status == "exact" else INFINITY
        self.mapping, self.rotation, self.translation = mapping, rotation, translation
        self.n_automorphisms = n_automorphisms


class _Graph:
    """The compared atoms of a topology: their places in the record, bonds between them, the `Molecule`."""

    def __init__(self, topology: Topology, settings: Settings) -> None:
        atoms = [i for i, element in enumerate(topology.elements) if settings.hydrogens or element != 1]
        if not atoms:
            raise RMSDError("it has no heavy atoms: compare with -h" if topology.elements else "it has no atoms")
        place = {atom: index for index, atom in enumerate(atoms)}
        kept = [(place[i], place[j], kind) for i, j, kind in topology.bonds if i in place and j in place]
        self.topology = topology  # kept, so that its id stays its own
        self.atoms = array("i", atoms)
        self.elements = [topology.elements[atom] for atom in atoms]
        self.bonds: list[tuple[int, ...]] = list(kept)
        charges, types = None, None
        if topology.charges is not None:
            charges = [topology.charges[atom] for atom in atoms]
        if settings.bond_types:
            types = [kind for *_, kind in kept]
        else:
            self.bonds = [(i, j) for i, j, _ in kept]
        self.labels = self.elements if charges is None else list(zip(self.elements, charges, strict=True))
        ends = [(i, j) for i, j, _ in kept]
        self.molecule = Molecule(self.elements, ends, bond_types=types, charges=charges)
        self.search: Search | None = None
        self._orders: dict[int, tuple[_Graph, array[int]]] = {}

    def order_of(self, other: _Graph, deadline: float | None = None) -> array[int]:
        """Atoms of a record of the other graph in the order of the compared atoms of this one.

        Raises NotIsomorphicError, SearchLimitError.
        """
        known = self._orders.get(id(other))
        if known is None:
            mapping = self.molecule._map_to(other.molecule, deadline=deadline)
            known = self._orders[id(other)] = other, array("i", [other.atoms[atom] for atom in mapping])
        return known[1]

    def ready(self, deadline: float | None = None) -> Search:
        """The search of this graph, made at the first use. Raises PlanLimitError."""
        if self.search is None:
            self.search = self.molecule._search(deadline=deadline)
        return self.search


class Comparer:
    """Compares records under one set of settings."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._graphs: dict[int, _Graph] = {}

    def pair(self, first: Record, second: Record) -> Outcome:
        """Compare two records; whatever goes wrong becomes the reason of the outcome."""
        try:
            a, b = self._readable(first, f"{first}: "), self._readable(second)
            compare = self._naive if self.settings.naive else self._search
            return compare(a, first, b, second)
        except (RMSDError, SearchLimitError) as error:
            return Outcome("failed", reason=str(error))

    def matrix(self, records: list[Record]) -> tuple[array[float], list[Problem]]:
        """RMSD in Å of all n · n pairs, row by row, infinite where there is none; and for which records, and why."""
        families, problems = self._families(records)
        k = len(records)
        if len(families) == 1 and len(families[0]) == k and not self._one_by_one():
            return self._conformers(records), problems
        out = array("d", [INFINITY]) * (k * k)
        for family in families:
            if self._one_by_one():
                problems += self._pair_by_pair(records, family, out)
                continue
            part = self._conformers([records[member] for member in family])
            for row, i in enumerate(family):
                for column, j in enumerate(family):
                    out[i * k + j] = part[row * len(family) + column]
        return out, problems

    def _one_by_one(self) -> bool:
        settings = self.settings
        return settings.naive or settings.level is not None or settings.time_limit_s is not None

    def _conformers(self, records: list[Record]) -> array[float]:
        """RMSD in Å of all k · k pairs of records of one molecule."""
        first = self._graph(records[0])
        k, step = len(records), 3 * len(first.atoms)
        places = array("d", bytes(8 * k * step))
        for index, record in enumerate(records):
            record.place(first.order_of(self._graph(record)), places, index * step)
        out = array("d", bytes(8 * k * k))
        x = _shaped(places, [k, step // 3, 3])
        matrix, align = _shaped(out, [k, k]), self.settings.align
        share(
            first.molecule, self.settings.threads, lambda search, counter: search.matrix_rows(x, matrix, counter, align)
        )
        return out

    def _pair_by_pair(self, records: list[Record], family: list[int], out: array[float]) -> list[Problem]:
        problems, k = [], len(records)
        for place, j in enumerate(family):
            out[j * k + j] = 0.0
            for i in family[:place]:
                outcome = self.pair(records[i], records[j])
                out[i * k + j] = out[j * k + i] = outcome.value
                if outcome.status != "exact":
                    problems.append(
                        (records[j], f"to record {records[i].number} of {records[i].file}: {outcome.reason}")
                    )
        return problems

    def _families(self, records: list[Record]) -> tuple[list[list[int]], list[Problem]]:
        """Indices of records of one molecule, in order, and those that have no place in the first family."""
        families: list[list[int]] = []
        family_of: dict[int, list[int]] = {}
        problems: list[Problem] = []
        for index, record in enumerate(records):
            try:
                self._readable(record)
                key = id(record.topology)
                if key not in family_of:
                    family_of[key] = self._family(records, record, families)
            except (RMSDError, SearchLimitError) as error:
                problems.append((record, str(error)))
                continue
            family_of[key].append(index)
            if family_of[key] is not families[0]:
                first = records[families[0][0]]
                reason = _difference(self._graph(first), self._graph(record))
                problems.append((record, f"it is not the molecule of record {first.number} of {first.file}: {reason}"))
        return families, problems

    def _family(self, records: list[Record], record: Record, families: list[list[int]]) -> list[int]:
        """The family of a graph that was not met before, perhaps a new one. Raises SearchLimitError."""
        graph = self._graph(record)
        for family in families:
            try:
                self._graph(records[family[0]]).order_of(graph, self._deadline())
            except NotIsomorphicError:
                continue
            return family
        families.append([])
        return families[-1]

    def _readable(self, record: Record, name: str = "") -> _Graph:
        """The graph of a record. Raises RMSDError if it is broken or has nothing to compare."""
        try:
            if record.problem:
                raise FormatError(record.problem)
            return self._graph(record)
        except RMSDError as error:
            raise RMSDError(f"{name}{error}") from None

    def _graph(self, record: Record) -> _Graph:
        assert record.topology is not None
        known = self._graphs.get(id(record.topology))
        if known is None:
            if len(self._graphs) >= MOST_GRAPHS:
                self._graphs.clear()
            known = self._graphs[id(record.topology)] = _Graph(record.topology, self.settings)
        return known

    def _deadline(self) -> float | None:
        limit = self.settings.time_limit_s
        return None if limit is None else time.monotonic() + limit

    def _search(self, a: _Graph, first: Record, b: _Graph, second: Record) -> Outcome:
        deadline = self._deadline()
        order = a.order_of(b, deadline)
        n = len(order)
        x, y = array("d", bytes(24 * n)), array("d", bytes(24 * n))
        first.place(a.atoms, x)
        second.place(order, y)
        at, to = _shaped(x, [n, 3]), _shaped(y, [n, 3])
        mapping, rotation, translation = array("i", bytes(4 * n)), array("d", IDENTITY), array("d", bytes(24))
        u, align, level = _shaped(rotation, [3, 3]), self.settings.align, self.settings.level
        try:
            if level is not None:
                from flashrmsd_cy import _levels

                graph = a.molecule._graph
                found = _levels.search(graph, n, level, align, at, to, mapping, u, translation, None, deadline)
            elif align:
                found = a.ready(deadline).fit(at, to, mapping, u, translation, None, deadline)
            else:
                total = a.ready(deadline).in_place(at, to, mapping)
                found = total, total, True
        except PlanLimitError:
            return self._bounded(a, at, order, to)
        total, least, exact = found
        upper = (total / n) ** 0.5
        lower = upper if exact else (least / n) ** 0.5
        return Outcome(
            "exact" if exact else "bound",
            lower,
            upper,
            "" if exact else self._stopped(lower, upper),
            mapping=_partners(a, mapping, order) if self.settings.mapping else (),
            rotation=tuple(rotation),
            translation=tuple(translation),
            n_automorphisms=a.molecule.n_automorphisms,
        )

    def _bounded(self, a: _Graph, x: memoryview[float], order: array[int], y: memoryview[float]) -> Outcome:
        """A pair of a molecule that could not be prepared within the limit."""
        from flashrmsd_cy._api import rmsd  # brings NumPy

        found = rmsd(x, y, a.molecule, align=self.settings.align, time_limit_s=self.settings.time_limit_s)
        exact = found.status == "exact"
        return Outcome(
            found.status,
            found.lower,
            found.upper,
            "" if exact else self._stopped(found.lower, found.upper),
            mapping=_partners(a, found.mapping.tolist(), order),
            rotation=tuple(found.rotation.ravel().tolist()),
            translation=tuple(found.translation.tolist()),
            n_automorphisms=found.n_automorphisms,
        )

    def _stopped(self, lower: float, upper: float) -> str:
        limit = self.settings.time_limit_s
        return f"stopped after {limit:g} s: the RMSD is between {lower:.6f} and {upper:.6f} Å"

    def _naive(self, a: _Graph, first: Record, b: _Graph, second: Record) -> Outcome:
        """Every mapping, one by one. Atoms of a are taken along bonds, or a few dozen would already be too many."""
        import numpy as np

        from flashrmsd_cy._reference import all_mappings, in_place, kabsch

        if len(a.atoms) > NAIVE_ATOMS:
            raise RMSDError(f"the naive search takes at most {NAIVE_ATOMS} atoms, here are {len(a.atoms)}")
        walk = _along_bonds(len(a.atoms), a.bonds)
        step = {atom: index for index, atom in enumerate(walk)}
        labels = [a.labels[atom] for atom in walk]
        bonds = [(step[i], step[j], *kind) for i, j, *kind in a.bonds]
        x = np.reshape(first.positions, (-1, 3))[a.atoms][walk]
        y = np.reshape(second.positions, (-1, 3))[b.atoms]
        best, count = Outcome("failed"), 0
        for mapping in all_mappings(labels, bonds, b.labels, b.bonds):
            count += 1
            moved = y[mapping]
            if self.settings.align:
                value, rotation, translation = kabsch(x, moved)
            else:
                value, rotation, translation = in_place(x, moved), np.eye(3), np.zeros(3)
            if value < best.value:
                best = Outcome(
                    "exact",
                    value,
                    value,
                    mapping=tuple(sorted((a.atoms[i], b.atoms[j]) for i, j in zip(walk, mapping, strict=True))),
                    rotation=tuple(rotation.ravel().tolist()),
                    translation=tuple(translation.tolist()),
                )
        if count == 0:
            raise NotIsomorphicError(f"the two molecules are not the same graph: {_difference(a, b)}")
        best.n_automorphisms = count
        return best


def _shaped(values: array, shape: list[int]) -> memoryview[float]:
    return memoryview(values).cast("B").cast("d", shape)


def _partners(a: _Graph, mapping: Any, order: array[int]) -> tuple[tuple[int, int], ...]:
    return tuple((a.atoms[i], order[j]) for i, j in enumerate(mapping))


def _difference(a: _Graph, b: _Graph) -> str:
    return difference(a.molecule._graph, b.molecule._graph) or "no mapping of all atoms keeps all bonds"


def _along_bonds(n: int, bonds: list[tuple[int, ...]]) -> list[int]:
    """All atoms, each next to one before it wherever there is such a one."""
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for i, j, *_ in bonds:
        neighbours[i].append(j)
        neighbours[j].append(i)
    walk: dict[int, None] = {}
    for start in range(n):
        waiting = [start]
        while waiting:
            atom = waiting.pop()
            if atom not in walk:
                walk[atom] = None
                waiting += neighbours[atom]
    return list(walk)
