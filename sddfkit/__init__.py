"""From SMILES to DFT-labelled data sets and ensembles of energy models that know where they are wrong.

The packages follow the pipeline: :mod:`~sddfkit.chem` (molecules, conformers), :mod:`~sddfkit.qc` (one calculation),
:mod:`~sddfkit.factory` (many), :mod:`~sddfkit.data` (records, splits), :mod:`~sddfkit.models` and
:mod:`~sddfkit.training` (energy models), :mod:`~sddfkit.active` (what to label next), :mod:`~sddfkit.viz` (pictures),
:mod:`~sddfkit.workflows` (the whole story). :mod:`flashrmsd_cy` stands beside them.

Units everywhere: Å, eV, eV/Å, e·Å, fs, amu.
"""

__version__ = "0.1.0"
