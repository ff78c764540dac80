"""The strict split: made once, by scaffold, frozen by its hash."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
from rdkit import Chem, DataStructs

from sddfkit.chem.fingerprints import morgan
from sddfkit.chem.molecules import molecule_id, without_hydrogens
from sddfkit.chem.scaffolds import has_ring, scaffold

FOLDS: Final = ("train", "validation", "test")
EXCLUDED: Final = "excluded"

SPLIT: Final[pa.Schema] = pa.schema(
    [
        pa.field("molecule_id", pa.string(), nullable=False),
        pa.field("scaffold", pa.string(), nullable=False),
        pa.field("fold", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


class SplitError(ValueError):
    """A split that cannot be made, or that leaks."""


def strict_scaffold_split(
    molecules: Mapping[str, Chem.Mol | str],
    *,
    fractions: Mapping[str, float] | None = None,
    rng: np.random.Generator,
    similarity: float = 0.7,
    draws: int = 10,
) -> pa.Table:
    """Assign whole scaffold groups to folds; drop what is too similar to training data.

    Groups are dealt out largest first, each to the fold that lacks most molecules to its target, ties by `rng`. Then
    validation and test molecules whose Tanimoto similarity (Morgan, radius 2, 2048 bits; of the scaffold, or of the
    whole molecule if it has no ring) to any training molecule exceeds `similarity` go to the fold "excluded" with
    that neighbour named. Of several such deals the one that drops fewest molecules stands. The order of `molecules`
    does not matter.

    Parameters
    ----------
    molecules : molecule id → molecule or SMILES
    fractions : fold → share of the molecules, summing to 1; train 0.7, validation 0.15, test 0.15 if None
    rng : breaks ties between groups of equal size and between folds
    similarity : Tanimoto threshold, from 0 to 1
    draws : how many deals that leave no fold empty to choose from; ten times as many are tried

    Returns
    -------
    pa.Table
        molecule_id, scaffold, fold ("train", "validation", "test", "excluded"), reason; sorted by molecule_id.
        The metadata keep the threshold, for `assert_no_leak`.

    Raises
    ------
    SplitError
        Fewer groups than folds, or a fold that the similarity filter empties in every deal.
    """
    shares = _checked(fractions or {"train": 0.7, "validation": 0.15, "test": 0.15}, similarity, draws)
    scaffolds = {name: scaffold(molecules[name]) for name in sorted(molecules)}
    sizes = Counter(scaffolds.values())
    if len(sizes) < len(shares):
        raise SplitError(
            f"{len(scaffolds)} molecules form {len(sizes)} scaffold groups ({', '.join(sorted(sizes))}); "
            f"{len(shares)} folds need at least {len(shares)}: add molecules with other scaffolds"
        )
    neighbours = _Neighbours({name: _compared(molecules[name], key) for name, key in scaffolds.items()}, similarity)
    complete: list[tuple[dict[str, str], dict[str, str]]] = []
    for _ in range(10 * draws):
        fold_of_group = _deal(sizes, shares, rng)
        folds = {name: fold_of_group[key] for name, key in scaffolds.items()}
        reasons = neighbours.too_similar(folds)
        folds |= dict.fromkeys(reasons, EXCLUDED)
        if set(folds.values()) >= set(shares):
            complete.append((folds, reasons))
        if len(complete) == draws:
            break
    if not complete:
        raise SplitError(
            f"in each of {10 * draws} deals a fold is empty after dropping molecules more than {similarity:g} similar "
            "to training molecules: add more diverse molecules or raise `similarity`"
        )
    folds, reasons = min(complete, key=lambda deal: len(deal[1]))
    return _table(scaffolds, folds, reasons, similarity)


def split_hash(table: pa.Table) -> str:
    """SHA-256 (hexadecimal) of the sorted rows (molecule_id, scaffold, fold): what freezes a split."""
    rows = sorted(zip(*(table[name].to_pylist() for name in ("molecule_id", "scaffold", "fold")), strict=True))
    return hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()


def fold_of(table: pa.Table) -> dict[str, str]:
    """Molecule id → fold."""
    return dict(zip(table["molecule_id"].to_pylist(), table["fold"].to_pylist(), strict=True))


def assert_no_leak(split: pa.Table) -> None:
    """Recompute from the molecule ids alone that nothing the strict split forbids has happened.

    Raises
    ------
    SplitError
        A molecule listed twice, a scaffold that is not the molecule's, a scaffold in two folds, an unknown fold, or
        a validation or test molecule too similar to a training molecule; all are named.
    """
    rows = split.to_pylist()
    problems = [f"{name} is listed {n} times" for name, n in Counter(r["molecule_id"] for r in rows).items() if n > 1]
    problems += [f"{r['molecule_id']}: unknown fold {r['fold']!r}" for r in rows if r["fold"] not in (*FOLDS, EXCLUDED)]
    seen: dict[str, str] = {}
    for row in rows:
        name, fold = row["molecule_id"], row["fold"]
        actual = scaffold(name)
        if actual != row["scaffold"]:
            problems.append(f"{name} has the scaffold {actual}, not {row['scaffold']}")
        if fold != EXCLUDED and seen.setdefault(actual, fold) != fold:
            problems.append(f"the scaffold {actual} is in both {seen[actual]} and {fold}")
    compared = {row["molecule_id"]: _compared(row["molecule_id"], scaffold(row["molecule_id"])) for row in rows}
    threshold = float((split.schema.metadata or {}).get(b"similarity", b"0.7"))
    neighbours = _Neighbours(compared, threshold)
    problems += [f"{name}: {reason}" for name, reason in neighbours.too_similar(fold_of(split)).items()]
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SplitError("the split leaks: " + "; ".join(problems[:5]) + more)


def _checked(fractions: Mapping[str, float], similarity: float, draws: int) -> dict[str, float]:
    unknown = sorted(set(fractions) - set(FOLDS))
    if unknown:
        raise SplitError(f"fractions names {unknown}; the folds are {', '.join(FOLDS)}")
    shares = {fold: float(fractions[fold]) for fold in FOLDS if fractions.get(fold, 0) != 0}
    if min(shares.values(), default=0) < 0 or abs(sum(shares.values()) - 1) > 1e-6 or "train" not in shares:
        raise SplitError(f"fractions={dict(fractions)}; expected shares that add up to 1, train among them")
    if not 0 <= similarity <= 1:
        raise SplitError(f"{similarity=}; expected a Tanimoto similarity from 0 to 1")
    if draws < 1:
        raise SplitError(f"{draws=}; expected at least 1")
    return shares


def _deal(sizes: Mapping[str, int], shares: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Scaffold → fold."""
    lacking = {fold: share * sum(sizes.values()) for fold, share in shares.items()}
    empty = set(shares)
    keys = [str(key) for key in rng.permutation(np.array(sorted(sizes), dtype=object))]
    dealt: dict[str, str] = {}
    for left, key in zip(range(len(keys), 0, -1), sorted(keys, key=lambda k: -sizes[k]), strict=True):
        # Each fold must get a group: when only as many groups are left as there are empty folds, those come first.
        open_folds: Sequence[str] = sorted(empty) if left <= len(empty) else list(shares)
        most = max(lacking[fold] for fold in open_folds)
        fold = str(rng.choice([fold for fold in open_folds if lacking[fold] >= most - 1e-9]))
        dealt[key] = fold
        lacking[fold] -= sizes[key]
        empty.discard(fold)
    return dealt


def _compared(molecule: Chem.Mol | str, key: str) -> str:
    return key if has_ring(molecule) else molecule_id(without_hydrogens(molecule))


class _Neighbours:
    """Nearest training molecule of each held-out one; what is compared is fingerprinted once for all draws."""

    def __init__(self, compared: Mapping[str, str], similarity: float) -> None:
        self.compared, self.similarity = compared, similarity
        keys = sorted(set(compared.values()))
        self.prints = dict(zip(keys, morgan(keys), strict=True))

    def too_similar(self, folds: Mapping[str, str]) -> dict[str, str]:
        """Held-out molecule → why it is too close to training."""
        train = {self.compared[name]: name for name in sorted(folds, reverse=True) if folds[name] == "train"}
        held_out = sorted(name for name, fold in folds.items() if fold in FOLDS and fold != "train")
        references, neighbours = [self.prints[key] for key in train], list(train.values())
        nearest: dict[str, tuple[float, str]] = {}
        for key in sorted({self.compared[name] for name in held_out}) if train else ():
            values = DataStructs.BulkTanimotoSimilarity(self.prints[key], references)
            highest = max(values)
            nearest[key] = highest, min(n for n, value in zip(neighbours, values, strict=True) if value == highest)
        return {
            name: f"Tanimoto similarity {value:.2f} > {self.similarity:g} to training molecule {neighbour}"
            for name, (value, neighbour) in ((name, nearest[self.compared[name]]) for name in held_out if nearest)
            if value > self.similarity
        }


def _table(
    scaffolds: Mapping[str, str], folds: Mapping[str, str], reasons: Mapping[str, str], similarity: float
) -> pa.Table:
    names = sorted(folds)
    columns = [
        names,
        [scaffolds[name] for name in names],
        [folds[name] for name in names],
        [reasons.get(name, "") for name in names],
    ]
    table = pa.table([pa.array(column, type=pa.string()) for column in columns], schema=SPLIT)
    return table.replace_schema_metadata({b"similarity": repr(float(similarity)).encode()})
