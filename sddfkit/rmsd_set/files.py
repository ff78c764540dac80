"""SDF and MOL2 text, with atoms and bonds of every record in an order of its own."""

import gzip
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Bond = tuple[int, int, int]
MAX_V2000 = 999


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator for one purpose: its stream depends on the seed and the names alone."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names]
    return np.random.default_rng([seed, *words])


def atom_orders(seed: int, file: str, n_atoms: int, k: int) -> NDArray[np.intp]:
    """(k, n_atoms) order of the atoms in each record: place p of record r holds the component's atom ``orders[r, p]``.

    The same for SDF and MOL2, and known to whoever has the manifest, so that a set can be read back in one order.
    """
    rng = generator(seed, "atom orders", file)
    return np.array([rng.permutation(n_atoms) for _ in range(k)], dtype=np.intp).reshape(k, n_atoms)


class Record:
    """One conformer, its atoms and bonds in an order of its own."""

    def __init__(
        self,
        name: str,
        elements: Sequence[str],
        charges: Sequence[int],
        bonds: Sequence[Bond],
        positions: Float,
        order: NDArray[np.intp],
        rng: np.random.Generator,
    ) -> None:
        place = np.argsort(order)
        shuffled = []
        for index in rng.permutation(len(bonds)):
            i, j, kind = bonds[index]
            ends = (int(place[i]), int(place[j]))
            shuffled.append((*(ends if rng.random() < 0.5 else ends[::-1]), kind))
        self.name = name
        self.elements = [elements[i] for i in order]
        self.charges = [charges[i] for i in order]
        self.positions = positions[order]
        self.bonds = shuffled

    def sdf(self) -> str:
        """An SDF record, V2000."""
        n, m = len(self.elements), len(self.bonds)
        if max(n, m) > MAX_V2000:
            raise ValueError(f"{self.name} has {n} atoms and {m} bonds; V2000 holds {MAX_V2000}")
        lines = [self.name, "  sddfkit           3D", "", f"{n:3d}{m:3d}  0  0  0  0  0  0  0  0999 V2000"]
        for element, (x, y, z) in zip(self.elements, self.positions, strict=True):
            lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {element:<3} 0  0  0  0  0  0  0  0  0  0  0  0")
        lines += [f"{i + 1:3d}{j + 1:3d}{kind:3d}  0" for i, j, kind in self.bonds]
        charged = [(i + 1, charge) for i, charge in enumerate(self.charges) if charge]
        for start in range(0, len(charged), 8):
            part = charged[start : start + 8]
            lines.append(f"M  CHG{len(part):3d}" + "".join(f" {i:3d} {charge:3d}" for i, charge in part))
        return "\n".join([*lines, "M  END", "$$$$", ""])

    def mol2(self) -> str:
        """A MOL2 record; the atom types are elements alone, for nothing more is known."""
        lines = ["@<TRIPOS>MOLECULE", self.name, f"{len(self.elements)} {len(self.bonds)} 1 0 0", "SMALL", "NO_CHARGES"]
        lines += ["", "@<TRIPOS>ATOM"]
        for i, (element, (x, y, z)) in enumerate(zip(self.elements, self.positions, strict=True), start=1):
            symbol = "Du" if element == "*" else element
            lines.append(f"{i} {symbol}{i} {x:.4f} {y:.4f} {z:.4f} {symbol} 1 LIG 0.0")
        lines.append("@<TRIPOS>BOND")
        lines += [f"{number} {i + 1} {j + 1} {kind}" for number, (i, j, kind) in enumerate(self.bonds, start=1)]
        return "\n".join([*lines, ""])


def write_gzip(path: Path, text: str) -> dict[str, int | str]:
    """Write a file complete or not at all, the same bytes for the same text; its size and sha256."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0, compresslevel=6) as stream:
        stream.write(text.encode("ascii"))
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
