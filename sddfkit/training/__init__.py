"""Training of energy networks with Lightning, tracked in MLflow.

:func:`fit_member` trains one network: a plain dict (the job) in, a folder with ``weights.safetensors`` and
``member.json`` out; it runs in a spawned process, on one thread by default, and gives the same weights for the same
job, also when it was killed on the way and called again. Inside, :class:`GraphDataModule` makes batches of graphs and
:class:`EnergyModule` fits energies (b,) in eV, with reference energies removed, and forces (n, 3) in eV/Å.
:mod:`sddfkit.training.metrics` holds pure functions of arrays. MLflow is written by
:class:`~sddfkit.training.sweep_run.SweepRun`, :class:`~sddfkit.training.parent_run.ParentRun` and
:class:`~sddfkit.training.member_run.MemberRun`, each nested below the one before.
Join the folders of several members with :meth:`sddfkit.models.Ensemble.from_members`.
"""

from sddfkit.training.datamodule import GraphDataModule
from sddfkit.training.fit import FitError, fit_member
from sddfkit.training.identity import job_hash
from sddfkit.training.module import EnergyModule
from sddfkit.training.tracking import TrackingError

__all__ = ["EnergyModule", "FitError", "GraphDataModule", "TrackingError", "fit_member", "job_hash"]
