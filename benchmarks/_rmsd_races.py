"""What is timed: drugs, families with growing symmetry, the shared set by class, threads.

Programs take turns, repeat by repeat, on one core and in one run, and the least time of each is kept. Every function
returns rows for the tables; a program that gave no time leaves the reason in `why`.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from _rmsd_molecules import (
    DRUGS,
    KINDS,
    Example,
    Float,
    alkanes,
    buckminsterfullerene,
    conformers,
    cyclodextrins,
    dendrimers,
    drug,
    equal_size,
    perfluoroalkanes,
    polyphenyls,
)
from _rmsd_peers import Answer, FlashRMSD, Library, Obrms
from _rmsd_reference import Stored

Row = dict[str, Any]
SLOW_CONFORMERS = 25
CLASSES = (1, 2, 10, 100, 1000, 10**5, 10**7, float("inf"))


class Size(NamedTuple):
    """How much is measured."""

    stored_every: int  # of the files of the shared set, each so-manieth
    drugs: tuple[str, ...]
    drug_conformers: int
    repeats: int
    limit_s: float  # for each program and molecule
    decades: tuple[int, ...]  # |Aut| of the families of equal size
    carbons: tuple[int, ...]
    per_class: int
    files: tuple[int, ...]  # conformers in the files of the whole processes
    file_drugs: tuple[str, ...]
    thread_conformers: int
    total_s: float  # after this the peers are left out


FULL = Size(
    stored_every=1,
    drugs=tuple(DRUGS),
    drug_conformers=100,
    repeats=3,
    limit_s=2.0,
    decades=(3, 6, 9, 12, 15),
    carbons=(6, 10, 16, 20, 30, 40),
    per_class=6,
    files=(100, 300, 1000),
    file_drugs=("imatinib", "ritonavir"),
    thread_conformers=1000,
    total_s=780.0,
)
QUICK = Size(
    stored_every=40,
    drugs=("aspirin", "celecoxib"),
    drug_conformers=20,
    repeats=1,
    limit_s=0.5,
    decades=(3, 15),
    carbons=(6, 40),
    per_class=1,
    files=(100,),
    file_drugs=("aspirin",),
    thread_conformers=200,
    total_s=8.0,
)


class Field:
    """All programs, the clock of the whole run, and what was measured so far."""

    def __init__(self, flashrmsd: str | None, size: Size) -> None:
        self.ours = Library("ours")
        self.obrms = Obrms()
        self.c = FlashRMSD(flashrmsd)
        self.peers: tuple[Library | Obrms | FlashRMSD, ...] = (Library("rdkit"), Library("spyrmsd"), self.obrms, self.c)
        self.size = size
        self.started = time.monotonic()

    def late(self) -> bool:
        """Whether the time for the whole run is used up."""
        return time.monotonic() - self.started > self.size.total_s

    def race(
        self,
        example: Example,
        x: Float,
        align: bool,
        skip: dict[str, str],
        limit: float | None = None,
        always: bool = False,
    ) -> dict[str, Answer]:
        """All pairs of x by each program in turn; `skip` says why some do not run, `always` that none is late."""
        limit = limit or self.size.limit_s
        best: dict[str, Answer] = {name: Answer(why=why) for name, why in skip.items()}
        for _ in range(self.size.repeats):
            for program in (self.ours, *self.peers):
                known = best.get(program.name)
                if program.name in skip or (known and (known.why or known.seconds > 1)):
                    continue
                if program is not self.ours and not always and self.late():
                    best.setdefault(program.name, Answer(why="left out: the time of the run was used up"))
                    continue
                answer = program(example, x, align, 10 * limit if program is self.ours else limit)
                if not known or (not answer.why and answer.seconds < known.seconds):
                    best[program.name] = answer
        return best

    def stop(self) -> None:
        """End all processes."""
        for program in (self.ours, *self.peers):
            if isinstance(program, Library):
                program.stop()


def _rows(
    section: str, example: Example, x: Float, align: bool, kind: str, answers: dict[str, Answer]
) -> Iterator[Row]:
    pairs = len(x) * (len(x) - 1) / 2
    ours = answers["ours"].matrix
    n_automorphisms = example.molecule().n_automorphisms
    for name, answer in answers.items():
        deviation = None
        if answer.matrix is not None and ours is not None:
            deviation = float(np.abs(answer.matrix - ours).max())
        yield {
            "section": section,
            "family": example.family,
            "molecule": example.name,
            "n_atoms": len(example.elements),
            "n_automorphisms": n_automorphisms,
            "conformers": len(x),
            "kind": kind,
            "mode": "minimised" if align else "fixed",
            "program": name,
            "us_per_pair": None if answer.seconds is None else 1e6 * answer.seconds / pairs,
            "us_per_pair_with_preparation": None
            if answer.seconds is None
            else 1e6 * (answer.seconds + answer.preparation) / pairs,
            "differs_from_ours": deviation,
            "why": answer.why,
        }


def drugs(field: Field) -> list[Row]:
    """Ordinary drugs, ETKDG conformers, all pairs. All programs must agree."""
    rows = []
    for name in field.size.drugs:
        example, x = drug(name, field.size.drug_conformers)
        for align in (False, True):
            # spyrmsd takes milliseconds a pair: fewer conformers for it.
            for part, slow in ((x, False), (x[:SLOW_CONFORMERS], True)):
                skip = {p.name: "" for p in field.peers if (p.name == "spyrmsd") != slow}
                answers = field.race(example, part, align, skip, limit=60.0, always=True)
                every = _rows("drugs", example, part, align, "ETKDG", answers)
                rows += [r for r in every if r["program"] not in skip and (r["program"] == "spyrmsd") == slow]
    for row in rows:
        worst = row["differs_from_ours"]
        assert worst is None or worst < 2e-4, f"{row['molecule']}: {row['program']} differs by {worst:.1e} Å"
    return rows


def families(size: Size) -> list[Example]:
    """The families of growing symmetry, each from small to large."""
    c = size.carbons
    quick = size is QUICK
    return [
        *alkanes(c, False),
        *alkanes(c, True),
        *perfluoroalkanes(c),
        *polyphenyls((2, 5) if quick else (2, 3, 4, 6, 8, 12)),
        *dendrimers((1,) if quick else (1, 2)),
        *(() if quick else cyclodextrins()),
        buckminsterfullerene(),
    ]


def growth(field: Field) -> list[Row]:
    """Time as symmetry grows with size: the peers on unrelated conformers, ours on similar ones too."""
    rows: list[Row] = []
    stopped: dict[tuple[str, str, bool], str] = {}
    for example in families(field.size):
        for kind in KINDS:
            x = conformers(example, 3 if field.size is QUICK else 6, kind)
            for align in (False, True):
                skip = {p.name: stopped.get((p.name, example.family, align), "") for p in field.peers}
                skip = {name: why for name, why in skip.items() if why}
                if kind == "similar":
                    skip = {p.name: "not asked" for p in field.peers}
                answers = field.race(example, x, align, skip)
                for name, answer in answers.items():
                    if answer.why.startswith("timed out"):
                        stopped[name, example.family, align] = "timed out on a smaller one"
                rows += _rows("growth", example, x, align, kind, answers)
    return rows


def equal_growth(field: Field) -> list[Row]:
    """Ours alone: |Aut| from 10³ to 10¹⁵ at equal number of atoms, equal bonds and equal geometry."""
    rows: list[Row] = []
    skip = {p.name: "not asked" for p in field.peers}
    quick = field.size is QUICK
    for example in equal_size(field.size.decades):
        if quick and "groups" not in example.family:
            continue
        for kind in KINDS:
            x = conformers(example, 3 if quick else 6, kind)
            for align in (False, True):
                rows += _rows("equal size", example, x, align, kind, field.race(example, x, align, skip, limit=5.0))
    return [row for row in rows if row["program"] == "ours"]


def classes(field: Field, files: Sequence[Stored]) -> list[Row]:
    """The shared set by symmetry class: some molecules of each, spread over sizes."""
    rows: list[Row] = []
    heavy = [file for file in files if file.atoms == "heavy" and not file.name.endswith("_pose")]
    counted = [(file.example.molecule().n_automorphisms, file) for file in heavy]
    for low, high in pairwise(CLASSES):
        inside = sorted((file for n, file in counted if low <= n < high), key=lambda file: len(file.example.elements))
        for file in inside[:: max(1, len(inside) // field.size.per_class)][: field.size.per_class]:
            for align in (False, True):
                answers = field.race(file.example, file.positions, align, {})
                rows += _rows("classes", file.example, file.positions, align, file.kind, answers)
    return rows


def threads(field: Field) -> list[Row]:
    """One thread against two on many conformers of one drug."""
    base, _ = drug("imatinib", 1)
    x = conformers(base, field.size.thread_conformers, "unrelated")
    rows = []
    for align in (False, True):
        best: dict[int, Answer] = {}
        for _ in range(field.size.repeats + 1):
            for n in (1, 2):
                answer = field.ours(base, x, align, 120.0, threads=n)
                if n not in best or (answer.seconds and answer.seconds < best[n].seconds):
                    best[n] = answer
        rows += [
            {
                "section": "threads",
                "molecule": base.name,
                "conformers": len(x),
                "mode": "minimised" if align else "fixed",
                "program": f"ours, {n} thread{'s' * (n > 1)}",
                "seconds": answer.seconds,
                "why": answer.why,
            }
            for n, answer in best.items()
        ]
    return rows
