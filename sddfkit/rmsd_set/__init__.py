"""A benchmark set for symmetry-corrected RMSD, from the Chemical Component Dictionary of the Protein Data Bank.

Concepts
--------
component
    a molecule of the dictionary (``biotite`` ships it: 49,195, of which 48,813 have five heavy atoms or more), known by
    its code.
conformers
    k of them: ETKDGv3 and MMFF94, or the next of a ladder of methods; which made which is recorded. They lie over each
    other as poses in one pocket do. Record 0 is the reference.
files
    ``<last character>/<id>.sdf.gz`` and ``.mol2.gz`` with the heavy atoms, ``<id>_H…`` with all. Atoms and bonds of
    every record are in a random order of its own.
reference values
    symmetry-corrected RMSD (Å) of all pairs, in place and after the best fit: by trying every automorphism that nauty
    finds, where these are few enough, and by ``flashrmsd_cy``, which must agree; where they are too many, by
    ``flashrmsd_cy`` alone, proved exact. spyrmsd is asked as well for the smallest groups.
failure
    a stored value with its class: ``input`` (the dictionary's entry), ``conformers`` (none could be made),
    ``automorphisms`` and ``value`` (two methods disagree), ``limit`` (a search was stopped), ``time``, ``died``,
    ``engine_lost``, ``unknown``.
manifest
    ``manifest.json``: settings, seed, versions, and a line per component with counts, methods, failures and the sha256
    of each file; ``reference.csv`` and ``index.json`` hold values and files as tables.

Work goes to an executor in chunks; each component is built in a child process that may crash or be killed. A finished
component is a line in a journal, so that the same command, started again, goes on where it was.

``benchmarks/rmsd_set.py`` is the command. A notebook needs :func:`read_rmsd_set`.
"""

from sddfkit.rmsd_set.build import Settings, build_component
from sddfkit.rmsd_set.components import Component, Dictionary, RmsdSetError
from sddfkit.rmsd_set.manifest import read_manifest
from sddfkit.rmsd_set.read import Entry, Reference, read_rmsd_set
from sddfkit.rmsd_set.series import LocalProcesses, Outcome, build_set

__all__ = [
    "Component",
    "Dictionary",
    "Entry",
    "LocalProcesses",
    "Outcome",
    "Reference",
    "RmsdSetError",
    "Settings",
    "build_component",
    "build_set",
    "read_manifest",
    "read_rmsd_set",
]
