"""One component: conformers, files, counts and reference values."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sddfkit.rmsd_set.components import Component, graph
from sddfkit.rmsd_set.conformers import Made, NoConformersError, make_conformers
from sddfkit.rmsd_set.files import Record, atom_orders, generator, write_gzip
from sddfkit.rmsd_set.values import reference_values


@dataclass(frozen=True)
class Settings:
    """All that decides what a set holds, beside its components and the versions of the programs.

    Attributes
    ----------
    seed : int
        Every draw for a component depends on it and on the component alone.
    conformers : int
        Records in each file; 0 counts automorphisms alone and writes no files.
    brute_force_limit : int
        Groups up to this order are verified by trying every automorphism.
    spyrmsd_limit : int
        Groups up to this order are also given to spyrmsd.
    value_limit_s : float
        For the matrix of one file in one mode, and for spyrmsd on one file.
    component_limit_s : float
        For the whole component; then it is tried once more without distance geometry. The largest (440 atoms) need
        minutes, and on which side of the limit they fall should not depend on how busy the machine is.
    """

    seed: int = 1
    conformers: int = 10
    brute_force_limit: int = 2000
    spyrmsd_limit: int = 24
    value_limit_s: float = 60.0
    component_limit_s: float = 900.0


def base_name(identity: str) -> str:
    """The name of a component's files without suffix, in a folder that few others share."""
    return f"{identity[-1]}/{identity}"


def build_component(component: Component, settings: Settings, folder: Path, *, embed: bool = True) -> dict[str, Any]:
    """Write the files of a component and return its row for the manifest, with its reference values.

    Parameters
    ----------
    component, settings
    folder : Path
        Of the set.
    embed : bool
        Whether to try distance geometry.

    Returns
    -------
    dict
        JSON-able: ``id, how, notes, files, graphs, failures``; graphs ``heavy`` and ``all`` hold the counts and values.
        A component that cannot be made has failures and no files; nothing is raised for it.
    """
    row: dict[str, Any] = {"id": component.id, "how": {}, "notes": [], "files": [], "graphs": {}, "failures": []}
    n = len(component.elements)
    made = Made(np.empty((0, n, 3)))
    if settings.conformers:
        try:
            rng = generator(settings.seed, "conformers", component.id)
            made = make_conformers(component, settings.conformers, rng, embed=embed)
        except NoConformersError as error:
            row["failures"].append({"class": "conformers", "reason": str(error)})
    row["how"], row["notes"] = made.how, made.notes
    kinds = {"heavy": component.heavy}
    if len(component.heavy) < n:
        kinds["all"] = list(range(n))
    for kind, atoms in kinds.items():
        name = base_name(component.id) + ("" if kind == "heavy" else "_H")
        if len(made.positions):
            row["files"] += _write(component, name, atoms, made, settings.seed, folder)
        elements, bonds = graph(component, atoms)
        values = asdict(
            reference_values(
                elements,
                bonds,
                made.positions[:, atoms],
                brute_force_limit=settings.brute_force_limit,
                spyrmsd_limit=settings.spyrmsd_limit,
                time_limit_s=settings.value_limit_s,
            )
        )
        row["failures"] += [{**failure, "graph": kind} for failure in values.pop("failures")]
        row["graphs"][kind] = {"file": name, **values}
    return row


def failed(identity: str, kind: str, reason: str) -> dict[str, Any]:
    """The row of a component that came to nothing."""
    failures = [{"class": kind, "reason": reason[:2000]}]
    return {"id": identity, "how": {}, "notes": [], "files": [], "graphs": {}, "failures": failures}


def _write(
    component: Component, name: str, atoms: list[int], made: Made, seed: int, folder: Path
) -> list[dict[str, Any]]:
    """SDF and MOL2 of some atoms; the records of both are the same."""
    place = {atom: index for index, atom in enumerate(atoms)}
    elements = [component.elements[i] for i in atoms]
    charges = [component.charges[i] for i in atoms]
    bonds = [(place[i], place[j], kind) for i, j, kind in component.bonds if i in place and j in place]
    rng = generator(seed, "bond orders", name)
    x = made.positions[:, atoms]
    records = [
        Record(f"{component.id}_{number}", elements, charges, bonds, x[number], order, rng)
        for number, order in enumerate(atom_orders(seed, name, len(atoms), len(x)))
    ]
    written: list[dict[str, Any]] = []
    for suffix, text in (
        ("sdf", [record.sdf() for record in records]),
        ("mol2", [record.mol2() for record in records]),
    ):
        path = f"{name}.{suffix}.gz"
        written.append({"path": path, **write_gzip(folder / path, "".join(text))})
    return written
