"""Which calculation to ask for next.

Concepts
--------
pool
    conformers that could be labelled; what is known of them arrives as named arrays (:class:`Pool`).
strategy
    a frozen dataclass that is called as ``strategy(pool, k, rng)`` and returns `k` record ids, best first. One that
    learns has ``fit(labelled)``, which returns the fitted strategy and leaves the original alone.
score
    the number that the strategy ranks by; higher is wanted more.

A strategy says which arrays it ``needs``. They are:

=================  ==========  ========  ==================================================================
name               shape       unit      meaning
=================  ==========  ========  ==================================================================
member_energies    (m, n)      eV        total energies by the m members of the ensemble
n_atoms            (n,)        --        atoms of each conformer
maccs              (n, 167)    --        MACCS keys of the conformer's molecule, as RDKit numbers them
errors             (m, n)      eV/atom   (labelled only) out-of-fold absolute error of each member
=================  ==========  ========  ==================================================================

Nothing here reads a label of the pool, starts a calculation, or knows the rest of sddfkit.
"""

from sddfkit.active.disagreement import Disagreement
from sddfkit.active.force_agreement import agreement, confidence_score, magnitude_spread
from sddfkit.active.loss_predictor import LossPredictor
from sddfkit.active.pool import Pool, PoolError, Strategy
from sddfkit.active.random import Random

__all__ = [
    "Disagreement",
    "LossPredictor",
    "Pool",
    "PoolError",
    "Random",
    "Strategy",
    "agreement",
    "confidence_score",
    "magnitude_spread",
]
