"""The five published networks of the smart distributed data factory, with the published weights, many times faster.

:class:`GEN`, :class:`General`, :class:`PNA`, :class:`ResGated` and :class:`Transformer` give the tensors that
torch-geometric's convolutions give, fault by fault (:class:`SDDFModel` lists them). They are energy models as the
smooth ones of :mod:`sddfkit.models`, in eV and eV/Å; :data:`PUBLISHED_REFERENCES` are the energies of the atoms to add.

>>> net = GEN(stats=GraphStats((1, 6, 8), 10.0, 2.0), width=64)
>>> net.load_published(net.state_dict())  # or the path of a checkpoint

With ``path="plain"`` the convolutions are torch-geometric's; with ``path="exact"``, the default, the same numbers come
by these identities (each is named again where it is used):

- *Edges are tables.* A linear map of the 320 published edge features is one of 40 coordinates: 23 different values of
  the basis, a 1 for the biases, the source's type, the bond type, all over the distance. Its rows are folded once per
  step, for each type of the target; edges are sorted so that all edges of a product share one table.
- *The first convolution sees types alone*, so its maps of atoms are rows of the same tables.
- *Sums over neighbours are dense*: atoms are sorted by type and number of neighbours, so the edges into them are
  arrays (atoms, neighbours, channels); chunks of them stay in the cache, forward and backward.
- *Behind the last nonlinearity* sums over the atoms of a molecule come first, linear maps after.
- *Attention never forms wide edges*: q·(W e) = (Wᵀ q)·e and Σ α W e = W Σ α e.

Derivatives by hand are differentiated again by autograd: forces can be trained on.
"""

from sddfkit.models.graphs import GraphStats
from sddfkit.models.sddf.base import PUBLISHED_REFERENCES, CheckpointError, SDDFModel
from sddfkit.models.sddf.gen import GEN
from sddfkit.models.sddf.general import General
from sddfkit.models.sddf.pna import PNA
from sddfkit.models.sddf.resgated import ResGated
from sddfkit.models.sddf.transformer import Transformer

__all__ = [
    "GEN",
    "PNA",
    "PUBLISHED_REFERENCES",
    "CheckpointError",
    "General",
    "GraphStats",
    "ResGated",
    "SDDFModel",
    "Transformer",
]
