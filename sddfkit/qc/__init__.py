"""One calculation done right: QCElemental and QCEngine, no torch, no database.

An `AtomicInput` (QCSchema 2) goes in, an `AtomicResult` or a `FailedOperation` comes out; a failure is a value, never
an exception. Programs sit behind QCEngine harnesses (`sddfkit.qc.harnesses`), levels of theory are data (`Level`, one
YAML each in ``conf/level``).

    level = Level(name="GFN2-xTB", method="gfn2-xtb", basis=None, programs={"tblite": {}})
    chosen = level.choose()                                          # program, version, why
    job = atomic_input(numbers, positions, 0, 1, level.specification(chosen.program))
    result = compute(job)
    values = extract(result, ["energy", "forces", "dipole"])

A program or an observable of one's own is one file on PYTHONPATH; its dotted path (``mine.toy.ToyHarness``,
``mine.toy.CHARGES``) stands wherever a name does. `refusal` says before there are positions why a molecule cannot be
computed.

Arrays and units
----------------
``positions``
    (n, 3) float64, Å, in a frame that is kept: forces and dipole come back in it.
QCSchema documents
    bohr, hartree, hartree/bohr, e·bohr, untouched.
`extract`
    energy in eV, forces (n, 3) in eV/Å, dipole (3,) in e·Å about the origin of the frame; if asked for, charges (n,) in
    e, orbital energies in eV, harmonic wavenumbers in cm⁻¹, matrices in the AO basis: the table is in
    `sddfkit.qc.properties`, whose `with_properties` makes the level compute what they need.

`content_key` is the identity of a calculation. `sddfkit.qc.supervisor.calculate` runs one in a child process with
limits on time and memory: that is what an engine of a batch calls.
"""

from sddfkit.qc.atoms import GROUND_STATE_MULTIPLICITY, atom_input
from sddfkit.qc.compute import compute
from sddfkit.qc.errors import ProgramBrokenError, ProgramMissingError
from sddfkit.qc.harnesses import harness
from sddfkit.qc.inputs import InputError, atomic_input, content_key, refusal
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.qc.properties import extract, property_named

__all__ = [
    "GROUND_STATE_MULTIPLICITY",
    "ChosenProgram",
    "InputError",
    "Level",
    "ProgramBrokenError",
    "ProgramMissingError",
    "atom_input",
    "atomic_input",
    "compute",
    "content_key",
    "extract",
    "harness",
    "property_named",
    "refusal",
]
