"""RMSD of records: each distinct graph is prepared once, and conformers of one molecule share it."""

import time
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flashrmsd_cy._api import rmsd, rmsd_matrix
from flashrmsd_cy._graph import difference
from flashrmsd_cy._molecule import Molecule
from flashrmsd_cy._records import Record, Topology
from flashrmsd_cy._reference import all_mappings, in_place, kabsch
from flashrmsd_cy.errors import FormatError, NotIsomorphicError, RMSDError, SearchLimitError

Float = NDArray[np.float64]
NAIVE_ATOMS = 900  # it calls itself once for each atom


@dataclass(frozen=True)
class Settings:
    """What is compared, and how; `time_limit_s` for each pair."""

    align: bool = False
    hydrogens: bool = False
    bond_types: bool = False
    naive: bool = False
    time_limit_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One pair. `value` in Å is infinite unless `status` is "exact"; `reason` says why.

    `mapping` holds, for each compared atom of the first record, that atom and its partner in the second, both counted
    from 0 in their records; `rotation` and `translation` move the second onto the first.
    """

    status: Literal["exact", "bound", "failed"]
    value: float = np.inf
    lower: float = 0.0
    upper: float = np.inf
    mapping: tuple[tuple[int, int], ...] = ()
    rotation: Float | None = None
    translation: Float | None = None
    n_automorphisms: int | None = None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class _Graph:
    """What the compared atoms of a topology are: their places in the record, bonds between them, the `Molecule`."""

    atoms: NDArray[np.intp]
    elements: list[int | str]
    bonds: list[tuple[int, ...]]
    molecule: Molecule


@dataclass
class Comparer:
    """Compares records under one set of settings."""

    settings: Settings
    _graphs: dict[int, tuple[Topology, _Graph]] = field(default_factory=dict)

    def pair(self, first: Record, second: Record) -> Outcome:
        """Compare two records; whatever goes wrong becomes the reason of the outcome."""
        try:
            a, b = self._readable(first, f"{first}: "), self._readable(second)
            compare = self._naive if self.settings.naive else self._search
            return compare(a, _places(first)[a.atoms], b, _places(second)[b.atoms])
        except (RMSDError, SearchLimitError) as error:
            return Outcome("failed", reason=str(error))

    def matrix(self, records: list[Record]) -> tuple[Float, list[tuple[Record, str]]]:
        """(n, n) RMSD in Å of all pairs, infinite where there is none; and the records concerned, with reasons."""
        families, problems = self._families(records)
        one_by_one = self.settings.naive or self.settings.time_limit_s is not None
        out = np.full((len(records), len(records)), np.inf)
        for family in families:
            if one_by_one:
                problems += self._pair_by_pair(records, family, out)
            else:
                x = np.array([self._in_order_of(records[family[0]], records[member]) for member in family])
                molecule = self._graph(records[family[0]]).molecule
                out[np.ix_(family, family)] = rmsd_matrix(x, molecule, align=self.settings.align)
        return out, problems

    def _pair_by_pair(self, records: list[Record], family: list[int], out: Float) -> list[tuple[Record, str]]:
        problems = []
        for place, j in enumerate(family):
            out[j, j] = 0.0
            for i in family[:place]:
                outcome = self.pair(records[i], records[j])
                out[i, j] = out[j, i] = outcome.value
                if outcome.status != "exact":
                    problems.append(
                        (records[j], f"to record {records[i].number} of {records[i].file}: {outcome.reason}")
                    )
        return problems

    def _families(self, records: list[Record]) -> tuple[list[list[int]], list[tuple[Record, str]]]:
        """Indices of records of one molecule, in order, and those that have no place in the first family."""
        families: list[list[int]] = []
        family_of: dict[int, list[int]] = {}
        problems: list[tuple[Record, str]] = []
        for index, record in enumerate(records):
            try:
                key = id(self._readable(record))
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
        molecule = self._graph(record).molecule
        for family in families:
            try:
                self._graph(records[family[0]]).molecule._map_to(molecule, deadline=self._deadline())
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
            known = self._graphs[id(record.topology)] = record.topology, self._new_graph(record.topology)
        return known[1]

    def _new_graph(self, topology: Topology) -> _Graph:
        hydrogens = self.settings.hydrogens
        atoms = [i for i, element in enumerate(topology.elements) if hydrogens or element != 1]
        if not atoms:
            raise RMSDError("it has no heavy atoms: compare with -h" if topology.elements else "it has no atoms")
        place = {atom: index for index, atom in enumerate(atoms)}
        kept = [(place[i], place[j], kind) for i, j, kind in topology.bonds if i in place and j in place]
        elements = [topology.elements[atom] for atom in atoms]
        ends = [(i, j) for i, j, _ in kept]
        types = [kind for *_, kind in kept] if self.settings.bond_types else None
        bonds: list[tuple[int, ...]] = list(kept) if self.settings.bond_types else list(ends)
        return _Graph(np.array(atoms), elements, bonds, Molecule(elements, ends, bond_types=types))

    def _in_order_of(self, first: Record, record: Record) -> Float:
        """(n, 3) compared atoms of a record in the order of those of `first`."""
        order = list(self._graph(first).molecule._map_to(self._graph(record).molecule))
        return _places(record)[self._graph(record).atoms][order]

    def _deadline(self) -> float | None:
        limit = self.settings.time_limit_s
        return None if limit is None else time.monotonic() + limit

    def _search(self, a: _Graph, x: Float, b: _Graph, y: Float) -> Outcome:
        result = rmsd(
            x,
            y,
            a.molecule,
            b.molecule,
            align=self.settings.align,
            time_limit_s=self.settings.time_limit_s,
        )
        exact = result.status == "exact"
        bounds = f"between {result.lower:.6f} and {result.upper:.6f} Å"
        return Outcome(
            status=result.status,
            value=result.value if exact else np.inf,
            lower=result.lower,
            upper=result.upper,
            mapping=tuple(zip(a.atoms.tolist(), b.atoms[result.mapping].tolist(), strict=True)),
            rotation=result.rotation,
            translation=result.translation,
            n_automorphisms=result.n_automorphisms,
            reason="" if exact else f"stopped after {self.settings.time_limit_s:g} s: the RMSD is {bounds}",
        )

    def _naive(self, a: _Graph, x: Float, b: _Graph, y: Float) -> Outcome:
        """Every mapping, one by one. Atoms of a are taken along bonds, or a few dozen would already be too many."""
        if len(a.elements) > NAIVE_ATOMS:
            raise RMSDError(f"the naive search takes at most {NAIVE_ATOMS} atoms, here are {len(a.elements)}")
        walk = _along_bonds(len(a.elements), a.bonds)
        step = {atom: index for index, atom in enumerate(walk)}
        elements = [a.elements[atom] for atom in walk]
        bonds = [(step[i], step[j], *kind) for i, j, *kind in a.bonds]
        best, count = Outcome("failed"), 0
        for mapping in all_mappings(elements, bonds, b.elements, b.bonds):
            count += 1
            moved = y[mapping]
            if self.settings.align:
                value, rotation, translation = kabsch(x[walk], moved)
            else:
                value, rotation, translation = in_place(x[walk], moved), np.eye(3), np.zeros(3)
            if value < best.value:
                partners = sorted(zip(a.atoms[walk].tolist(), b.atoms[mapping].tolist(), strict=True))
                best = Outcome("exact", value, value, value, tuple(partners), rotation, translation)
        if count == 0:
            raise NotIsomorphicError(f"the two molecules are not the same graph: {_difference(a, b)}")
        return replace(best, n_automorphisms=count)


def _difference(a: _Graph, b: _Graph) -> str:
    return difference(a.molecule._graph, b.molecule._graph) or "no mapping of all atoms keeps all bonds"


def _places(record: Record) -> Float:
    return np.array(record.positions).reshape(-1, 3)


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
