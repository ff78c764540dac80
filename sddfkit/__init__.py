"""From SMILES to DFT-labelled data sets and ensembles of energy models that know where they are wrong.

The packages follow the pipeline: :mod:`~sddfkit.chem` (molecules, conformers), :mod:`~sddfkit.qc` (one calculation),
:mod:`~sddfkit.factory` (many), :mod:`~sddfkit.data` (records, splits), :mod:`~sddfkit.models` and
:mod:`~sddfkit.training` (energy models), :mod:`~sddfkit.active` (what to label next), :mod:`~sddfkit.viz` (pictures),
:mod:`~sddfkit.workflows` (the whole story). :mod:`flashrmsd_cy` stands beside them.

:func:`load` opens a trained ensemble. Units everywhere: Å, eV, eV/Å, e·Å, fs, amu.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from sddfkit.models import Ensemble

__version__ = "0.1.0"


def load(path: "str | Path") -> "Ensemble":
    """Open a trained ensemble: what :meth:`~sddfkit.models.Ensemble.save` wrote, or the folder of a run or sweep.

    Raises
    ------
    EnsembleError
        If there is none, or a part of it is missing or damaged.
    """
    from pathlib import Path

    from sddfkit.models import Ensemble
    from sddfkit.models.ensemble import ensemble_in

    path = Path(path).expanduser()
    return Ensemble.load(ensemble_in(path) or path)
