"""What the benchmark of the factory computes: real molecules at real levels, and toys that are told what to cost."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sddfkit.factory import Calculation, plan
from sddfkit.qc import Level
from sddfkit.qc.errors import ProgramBrokenError, ProgramMissingError

BENCHMARKS = Path(__file__).parent
DFT_MOLECULES = {"water": "O", "methane": "C", "ammonia": "N", "hydrogen cyanide": "C#N", "hydrogen fluoride": "F"}
DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
}
SECONDS = "seconds"  # keyword of the harness Burn


class Structure(NamedTuple):
    """A record, as far as :func:`sddfkit.factory.plan` looks at it; positions in Å."""

    record_id: str
    molecule_id: str
    name: str
    charge: int
    multiplicity: int
    atomic_numbers: NDArray[np.int32]
    positions: NDArray[np.float64]


def environment() -> None:
    """One thread per process, and these modules wherever engines and workers look for harnesses."""
    from sddfkit.qc.child import ONE_THREAD

    os.environ.update(ONE_THREAD)
    folders = [
        str(BENCHMARKS.parent),
        str(BENCHMARKS),
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(folders))
    if str(BENCHMARKS) not in sys.path:
        sys.path.insert(0, str(BENCHMARKS))


def level(name: str) -> Level:
    """A level of theory that ships with the package, by the name of its file."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    found = instantiate(OmegaConf.load(BENCHMARKS.parent / "conf" / "level" / f"{name}.yaml"))
    assert isinstance(found, Level)
    return found


def toy(name: str, **keywords: float) -> Level:
    """A level that is computed by one of the toys: "Constant" or "Burn"."""
    return Level(f"toy {name}", "toy", None, {f"_factory_harnesses.{name}": keywords})


def molecules(smiles: dict[str, str], conformers: int, rng: np.random.Generator) -> Iterator[Structure]:
    """Conformers by ETKDG, unrelaxed, of named molecules."""
    from sddfkit.chem.conformers import etkdg
    from sddfkit.chem.molecules import charge_and_multiplicity, molecules_from_smiles

    for name, text in smiles.items():
        mol = molecules_from_smiles(text, name=name, stereo="enumerate")[0]
        found = etkdg(mol, conformers, rng, prune_rmsd=None).mol
        numbers = np.array([atom.GetAtomicNum() for atom in found.GetAtoms()], dtype=np.int32)
        charge, multiplicity = charge_and_multiplicity(found)
        for conformer in found.GetConformers():
            positions = np.array(conformer.GetPositions())
            yield Structure(f"{name} {conformer.GetId()}", name, name, charge, multiplicity, numbers, positions)


def shipped(name: str) -> dict[str, str]:
    """SMILES of a molecule set that comes with the package, by name."""
    from sddfkit.chem.sources import shipped as path

    lines = [line.split(maxsplit=1) for line in path(name).read_text().splitlines() if line and line[0] != "#"]
    return {title: smiles for smiles, title in lines}


def water(number: int) -> Structure:
    """Water number so and so: they differ by some 1e-7 Å, so that each is a calculation of its own."""
    z = np.array([8, 1, 1], dtype=np.int32)
    shift = 1e-7 * number
    x = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572 + shift, -0.4692], [0.0, -0.7572, -0.4692]])
    return Structure(f"water {number}", "water", "water", 0, 1, z, x)


class Task(NamedTuple):
    """A structure and the level that it is asked for at: the file of a level that ships, or the name of a toy."""

    level: str
    structure: Structure


def write_tasks(path: Path, tasks: Sequence[Task]) -> None:
    """Write tasks for another process."""
    with path.open("w") as file:
        for level_name, s in tasks:
            arrays = {"atomic_numbers": s.atomic_numbers.tolist(), "positions": s.positions.tolist()}
            file.write(json.dumps([level_name, {**s._asdict(), **arrays}]) + "\n")


def read_tasks(path: Path) -> list[Task]:
    """Read what `write_tasks` wrote."""
    return [Task(name, _structure(document)) for name, document in map(json.loads, path.read_text().splitlines())]


def _structure(document: dict[str, Any]) -> Structure:
    arrays = {
        "atomic_numbers": np.array(document["atomic_numbers"], dtype=np.int32),
        "positions": np.array(document["positions"], dtype=float),
    }
    return Structure(**{**document, **arrays})


def calculations(tasks: Sequence[Task]) -> list[Calculation]:
    """Plan tasks, in their order."""
    found: dict[int, Calculation] = {}
    for name in dict.fromkeys(task.level for task in tasks):
        places = [i for i, task in enumerate(tasks) if task.level == name]
        at = toy(name) if name == "Constant" else level(name)
        found |= dict(zip(places, planned([tasks[i].structure for i in places], at), strict=True))
    return [found[i] for i in range(len(tasks))]


def planned(structures: Sequence[Structure], at: Level) -> list[Calculation]:
    """Calculations of all structures; a refusal would be a mistake of this benchmark."""
    calculations, refusals = plan(structures, at, at.choose())
    if refusals:
        raise ValueError(f"{refusals[0].name}: {refusals[0].reason}")
    return [item._replace(record_id=None) for item in calculations]  # no table of records is kept here


def mixed(n: int, dft_share: float, rng: np.random.Generator) -> tuple[list[Task], dict[str, Any]]:
    """A batch of GFN2-xTB and small DFT calculations; without a DFT program it is GFN2-xTB alone, and says so."""
    n_dft = round(n * dft_share)
    at = level("wb97x_631gd")
    try:
        chosen = at.choose().program
    except (ProgramMissingError, ProgramBrokenError) as error:
        chosen, n_dft = f"none: {error}", 0
    small = list(molecules(DFT_MOLECULES, -(-n_dft // len(DFT_MOLECULES)) or 1, rng))
    dft = [Task("wb97x_631gd", one) for one in _distorted(small, rng)[:n_dft]]
    names = shipped("demo")
    many = list(molecules(names, -(-(n - n_dft) // len(names)), rng))
    order = rng.permutation(len(many))[: n - n_dft]
    gfn2 = [Task("gfn2", many[i]) for i in order]
    return [*dft, *gfn2], {"gfn2": len(gfn2), "dft": len(dft), "dft_level": at.name, "dft_program": chosen}


def sized(n: int, rng: np.random.Generator) -> list[Task]:
    """GFN2-xTB from methanol to imatinib: the real batch of varied sizes."""
    drugs = list(molecules(DRUGS, max(1, n // 3 // len(DRUGS)), rng))
    small = list(molecules(shipped("demo"), 1, rng))
    chosen = [small[i] for i in rng.permutation(len(small))[: max(1, n - len(drugs))]]
    some = [*drugs, *chosen][:n]
    return [Task("gfn2", some[i]) for i in rng.permutation(len(some))]


def waters(first: int, n: int) -> list[Structure]:
    """So many waters, from number `first`."""
    return [water(number) for number in range(first, first + n)]


def constants(first: int, n: int) -> list[Calculation]:
    """Calculations that return a constant."""
    return planned(waters(first, n), toy("Constant"))


def burning(seconds: Sequence[float]) -> list[Calculation]:
    """Calculations that use so many seconds of processor time; their cost says so."""
    found = []
    for number, value in enumerate(seconds):
        (item,) = planned([water(number)], toy("Burn", **{SECONDS: round(float(value), 4)}))
        found.append(item._replace(cost=float(value)))
    return found


def _distorted(structures: Sequence[Structure], rng: np.random.Generator) -> list[Structure]:
    """Rigid molecules have one conformer only: move each atom by some 0.02 Å, so that each is another calculation."""
    return [s._replace(positions=s.positions + rng.normal(scale=0.02, size=s.positions.shape)) for s in structures]
