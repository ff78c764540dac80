"""Energy models as potentials, for the programs that move atoms.

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

__all__ = ["EnsembleCalculator", "UncertainError", "UncertainWarning", "atoms_of"]
