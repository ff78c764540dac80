"""Energy models as potentials, for the programs that move atoms.

Many molecules at once
----------------------
:func:`langevin` moves many molecules together and returns a :class:`Trajectory` of each. Its parts serve alone, too:

potential
    a callable, (records, positions) → :class:`Evaluation`: energies and forces of all molecules, of the members of an
    ensemble too. :class:`EnsemblePotential`, :func:`tblite`, :class:`CalculatorPotential` (any ASE calculator),
    :class:`HarmonicWells`, and their :class:`Sum`.
state
    :class:`MDState`, tensors over b molecules with n atoms in total: positions (n, 3) Å, velocities (n, 3) Å/fs, forces
    (n, 3) eV/Å, masses (n,) amu, energies (b,) eV; float64. A step makes a new one.
integrator
    a callable, (state, potential) → state: :class:`BAOAB` (Langevin), :class:`VelocityVerlet`.
noise
    a function of (seed, the molecule's stream, step): a molecule moves the same way alone and in any company.
stop rule
    a callable, state → the molecules that end here and why: :class:`BondStretched`, :class:`AtomLost`,
    :class:`LowConfidence`, :class:`Spread`. The reason is kept as a :class:`Stop`.

>>> potential = EnsemblePotential(sddfkit.load("ensemble.safetensors"))            # doctest: +SKIP
>>> trajectories = langevin(records, potential, seed=1, checkpoint="md.npz")       # doctest: +SKIP
>>> least_confident(trajectories, 200)  # frames to label next, as records         # doctest: +SKIP

One molecule, by ASE
--------------------
An :class:`EnsembleCalculator` is an ASE calculator: ASE's optimisers, integrators and filters ask it for energy (eV)
and forces (eV/Å), and it says with each answer how far the members of the ensemble disagree. What happens at a step
that is too uncertain is a policy: warn, stop, or collect the geometry for the next round of labels.

>>> atoms = atoms_of(record)                                            # doctest: +SKIP
>>> atoms.calc = EnsembleCalculator(sddfkit.load("ensemble.safetensors"), record, limit=0.5, policy="collect")
...                                                                     # doctest: +SKIP
>>> ase.optimize.LBFGS(atoms).run(fmax=0.05)                            # doctest: +SKIP
>>> atoms.calc.results["energy_std"], atoms.calc.results["forces_std_max"], len(atoms.calc.collected)
...                                                                     # doctest: +SKIP
"""

from sddfkit.dynamics.calculator import EnsembleCalculator, UncertainError, UncertainWarning, atoms_of
from sddfkit.dynamics.integrators import BAOAB, Integrator, VelocityVerlet
from sddfkit.dynamics.potentials import (
    CalculatorPotential,
    EnsemblePotential,
    Evaluation,
    HarmonicWells,
    Potential,
    Sum,
    tblite,
)
from sddfkit.dynamics.run import CheckpointError, langevin, simulate
from sddfkit.dynamics.state import MDState, at_rest, kinetic_energy, kinetic_temperature, thermalised
from sddfkit.dynamics.stops import AtomLost, BondStretched, LowConfidence, Spread, Stop, StopRule
from sddfkit.dynamics.trajectories import (
    Trajectory,
    least_confident,
    load_trajectories,
    save_trajectories,
    write_extxyz,
)

__all__ = [
    "AtomLost",
    "BAOAB",
    "BondStretched",
    "CalculatorPotential",
    "CheckpointError",
    "EnsembleCalculator",
    "EnsemblePotential",
    "Evaluation",
    "HarmonicWells",
    "Integrator",
    "LowConfidence",
    "MDState",
    "Potential",
    "Spread",
    "Stop",
    "StopRule",
    "Sum",
    "Trajectory",
    "UncertainError",
    "UncertainWarning",
    "VelocityVerlet",
    "at_rest",
    "atoms_of",
    "kinetic_energy",
    "kinetic_temperature",
    "langevin",
    "least_confident",
    "load_trajectories",
    "save_trajectories",
    "simulate",
    "tblite",
    "thermalised",
    "write_extxyz",
]
