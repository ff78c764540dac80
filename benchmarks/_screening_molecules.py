"""A catalogue of made-up drug-like molecules, as long as wanted, and what RDKit alone takes for them."""

from collections.abc import Iterator, Sequence
from itertools import product

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

RINGS = (
    "c1ccccc1",
    "c1ccncc1",
    "c1ccsc1",
    "c1ccoc1",
    "C1CCCCC1",
    "C1CCOCC1",
    "C1CC1",
    "c1cnc2ccccc2c1",
    "c1ccc2[nH]ccc2c1",
)
TAILS = ("", "C", "CC", "C(C)C", "OC", "F", "Cl", "C(F)(F)F", "C#N", "S(C)(=O)=O", "N(C)C", "OCC", "C(C)(C)C", "OC(F)F")
LINKS = ("C(=O)N", "C(=O)NC", "S(=O)(=O)N", "CN", "CO", "NC(=O)C", "C(=O)N(C)C", "OCC(=O)N", "CCN", "NC(=O)N")
MIDDLES = ("CC", "CCC", "C1CCN(CC1)", "c1ccc(cc1)", "c1ccnc(c1)", "C1CCC(CC1)", "c1nc(cs1)", "C(C)C", "c1cc(on1)")


def molecules() -> Iterator[str]:
    """Distinct SMILES in an order that mixes sizes: 1.4 million of them."""
    heads = [f"{tail}{ring}" if tail in ("C", "CC", "F", "Cl") else ring for ring, tail in product(RINGS, TAILS[:7])]
    heads = list(dict.fromkeys(heads))
    ends = [
        f"{ring.replace('1', '3').replace('2', '4')}{tail}" if tail else ring.replace("1", "3").replace("2", "4")
        for ring, tail in product(RINGS, TAILS)
    ]
    parts = [heads, LINKS, MIDDLES, LINKS, ends]
    total = 1
    for part in parts:
        total *= len(part)
    step = 7_368_787  # a prime that divides no length: every place is met once
    for i in range(total):
        place, text = i * step % total, []
        for part in parts:
            place, at = divmod(place, len(part))
            text.append(part[at])
        yield "".join(text)


def bare(smiles: Sequence[str]) -> int:
    """RDKit's parser and its MACCS keys, nothing else."""
    lock = rdBase.BlockLogs()
    done = 0
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        if mol is not None:
            rdMolDescriptors.GetMACCSKeysFingerprint(mol)
            done += 1
    del lock
    return done
