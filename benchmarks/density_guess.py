"""Does an SCF need fewer cycles if it starts from the density of another conformer of the same molecule?

    python benchmarks/density_guess.py [--quick]

Each conformer is computed by PySCF at wb97x_631gd as a batch computes it, from superposed atomic densities ("minao"),
and again from the converged density of the conformer before it: as it is ("previous"), and made orthonormal in the new
overlap, S'^−½ S^½ D S^½ S'^−½ ("previous, orthogonal"). Asserts that all end at the same energy, and counts cycles.
The last line is one JSON object; ``ratio`` is the mean number of cycles divided by that of the first.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from _factory_work import environment, level, molecules

from sddfkit.qc import atomic_input
from sddfkit.qc.harnesses.pyscf import _keywords, _mean_field

MOLECULES = {
    "ethanol": "CCO",
    "glycine": "NCC(=O)O",
    "butane": "CCCC",
    "ethylene glycol": "OCCO",
}
SAME = 1e-7  # hartree


def main() -> int:
    """Measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small molecule")
    quick = parser.parse_args().quick
    environment()
    chosen = {"methanol": "CO"} if quick else MOLECULES
    cycles: dict[str, dict[str, list[int]]] = {}
    before: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for structure in molecules(chosen, 2 if quick else 4, np.random.default_rng(7)):
        found, now = conformer(structure, before.get(structure.name))
        before[structure.name] = now
        for guess, n in found.items():
            cycles.setdefault(structure.name, {}).setdefault(guess, []).append(n)
        print(f"{structure.name}: {found}", flush=True)
    guesses = list(next(iter(cycles.values())))
    mean = {guess: float(np.mean([n for rows in cycles.values() for n in rows[guess]])) for guess in guesses}
    ratio = {guess: round(n / mean[guesses[0]], 3) for guess, n in mean.items()}
    print(json.dumps({"benchmark": "density_guess", "quick": quick, "cycles": cycles, "mean": mean, "ratio": ratio}))
    return 0


def conformer(structure: Any, before: Any) -> tuple[dict[str, int], Any]:
    """Cycles by guess (only once there is a conformer before this one), and its density and the root of its overlap."""
    chosen = level("wb97x_631gd")
    document = atomic_input(
        structure.atomic_numbers, structure.positions, structure.charge, structure.multiplicity,
        chosen.specification("pyscf"),
    )  # fmt: skip
    keywords = _keywords(document.specification.keywords)

    def scf(density: NDArray[np.float64] | None) -> tuple[Any, int]:
        mf, n = _mean_field(document, chosen.method, chosen.basis or "", keywords, 1024.0), [0]
        mf.callback = lambda _: n.__setitem__(0, n[0] + 1)
        mf.kernel(dm0=density)
        assert mf.converged
        return mf, n[0]

    mf, cold = scf(None)
    root = power(mf.get_ovlp(), 0.5)
    counted = {}
    if before is not None:
        density, earlier = before
        turn = power(mf.get_ovlp(), -0.5) @ earlier
        counted["minao"] = cold
        for guess, start in (("previous", density), ("previous, orthogonal", turn @ density @ turn.T)):
            again, counted[guess] = scf(start)
            assert abs(again.e_tot - mf.e_tot) < SAME, f"{structure.record_id} from {guess}: another energy"
    return counted, (np.asarray(mf.make_rdm1()), root)


def power(matrix: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    """A power of a symmetric positive matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * values**exponent) @ vectors.T)


if __name__ == "__main__":
    raise SystemExit(main())
