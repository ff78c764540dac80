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

A strategy says which arrays of the pool it ``needs``, and which arrays of the labelled rows it ``learns`` from (none:
it need not be fitted). They are:

=================  ==========  ========  ==================================================================
name               shape       unit      meaning
=================  ==========  ========  ==================================================================
member_energies    (m, n)      eV        total energies by the m members of the ensemble
shifted_energies   (m, n)      eV        the same above the reference energies of the atoms
n_atoms            (n,)        --        atoms of each conformer
member_forces      (m, a, 3)   eV/Å      forces by the members on the atoms of all conformers, one after another
maccs              (n, 167)    --        MACCS keys of the conformer's molecule, as RDKit numbers them
embeddings         (n, d)      --        any description of the conformer, such as a network's
conformer_order    (n,)        --        place in an order of the molecule's conformers in which each is far by
                                         symmetry-corrected RMSD from those before (:func:`farthest_order`)
expected_minutes   (n,)        min       expected wall time of the calculation
errors             (m, n)      eV/atom   (labelled only) out-of-fold absolute error of each member
=================  ==========  ========  ==================================================================

Nothing here reads a label of the pool, starts a calculation, or knows the rest of sddfkit.
"""

from sddfkit.active.confidence import LowestConfidence
from sddfkit.active.cost_aware import CostAware
from sddfkit.active.disagreement import Disagreement
from sddfkit.active.diversity import Diversity, farthest_order
from sddfkit.active.force_agreement import agreement, confidence_score, magnitude_spread
from sddfkit.active.loss_predictor import LossPredictor
from sddfkit.active.pool import Pool, PoolError, Strategy
from sddfkit.active.random import Random
from sddfkit.active.relative_std import RelativeStd
from sddfkit.active.uncertainty_diversity import UncertaintyDiversity

__all__ = [
    "CostAware",
    "Disagreement",
    "Diversity",
    "LossPredictor",
    "LowestConfidence",
    "Pool",
    "PoolError",
    "Random",
    "RelativeStd",
    "Strategy",
    "UncertaintyDiversity",
    "agreement",
    "confidence_score",
    "farthest_order",
    "magnitude_spread",
]
