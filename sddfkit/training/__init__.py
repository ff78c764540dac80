"""Training of energy networks with Lightning, tracked in MLflow.

:func:`fit_member` trains one network: a plain dict (the job) in, a folder with ``weights.safetensors`` and
``member.json`` out; it runs in a spawned process, on one thread by default, and gives the same weights for the same
job. Inside, :class:`GraphDataModule` makes batches of graphs and :class:`EnergyModule` fits energies (b,) in eV, with
reference energies removed, and forces (n, 3) in eV/Å. :mod:`sddfkit.training.metrics` holds pure functions of arrays.
Join the folders of several members with :meth:`sddfkit.models.Ensemble.from_members`.
"""

from sddfkit.training.datamodule import GraphDataModule
from sddfkit.training.fit import FitError, fit_member, job_hash
from sddfkit.training.module import EnergyModule

__all__ = ["EnergyModule", "FitError", "GraphDataModule", "fit_member", "job_hash"]
