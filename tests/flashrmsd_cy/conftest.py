"""Plain writers of the formats that `flashrmsd_cy` reads: independent of its readers and of RDKit.

Each takes symbols, positions (n, 3) in Å and bonds (i, j, type), and returns the text of one record.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from flashrmsd_cy.cli import main

MOL2_TYPES = {1: "1", 2: "2", 3: "3", 4: "ar"}


def v2000(symbols, positions, bonds, title="", end="M  END\n$$$$\n"):
    lines = [title, "", "", f"{len(symbols):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000"]
    lines += [
        f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3} 0  0  0  0  0  0" for s, (x, y, z) in zip(symbols, positions, strict=True)
    ]
    lines += [f"{i + 1:3d}{j + 1:3d}{kind:3d}  0" for i, j, kind in bonds]
    return "\n".join([*lines, end])


def v3000(symbols, positions, bonds, title="", end="M  END\n$$$$\n"):
    lines = [title, "", "", "  0  0  0     0  0            999 V3000", "M  V30 BEGIN CTAB"]
    lines += [f"M  V30 COUNTS {len(symbols)} {len(bonds)} 0 0 0", "M  V30 BEGIN ATOM"]
    lines += [
        f"M  V30 {i} {s} {x:.4f} {y:.4f} -\nM  V30 {z:.4f} 0 CFG=0"
        for i, (s, (x, y, z)) in enumerate(zip(symbols, positions, strict=True), 1)
    ]
    lines += ["M  V30 END ATOM", "M  V30 BEGIN BOND"]
    lines += [f"M  V30 {k} {kind} {i + 1} {j + 1}" for k, (i, j, kind) in enumerate(bonds, 1)]
    return "\n".join([*lines, "M  V30 END BOND", "M  V30 END CTAB", end])


def mol2(symbols, positions, bonds, title=""):
    lines = ["# a comment", "@<TRIPOS>MOLECULE", title, f"{len(symbols)} {len(bonds)} 1 0 0", "SMALL", "NO_CHARGES", ""]
    lines += ["@<TRIPOS>ATOM"]
    lines += [
        f"{i:7d} {s}{i} {x:.4f} {y:.4f} {z:.4f} {s} 1 LIG 0.0"
        for i, (s, (x, y, z)) in enumerate(zip(symbols, positions, strict=True), 1)
    ]
    lines += ["@<TRIPOS>BOND"]
    lines += [f"{k} {i + 1} {j + 1} {MOL2_TYPES[kind]}" for k, (i, j, kind) in enumerate(bonds, 1)]
    return "\n".join([*lines, "", ""])


@pytest.fixture(scope="session")
def write():
    return SimpleNamespace(v2000=v2000, v3000=v3000, mol2=mol2)


# Acetate with one hydrogen: the two O may be exchanged.
ACETATE = ("C", "C", "O", "O", "H"), [(0, 1, 1), (1, 2, 2), (1, 3, 1), (0, 4, 1)]
PLACES = np.array([(0.0, 0, 0), (1.5, 0, 0), (2.1, 1.1, 0), (2.1, -1.1, 0), (-0.5, 0.9, 0)])


@pytest.fixture
def command(capsys):
    """Runs the command in this process; returns exit code, standard output and standard error."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return run


@pytest.fixture
def acetate(tmp_path, write):
    """Three conformers, the second with its O exchanged and moved by 0.1 Å, the third turned by a right angle."""
    symbols, bonds = ACETATE
    turned = PLACES[:, [1, 0, 2]] * [-1, 1, 1]
    shapes = [PLACES, PLACES[[0, 1, 3, 2, 4]] + [0, 0, 0.1], turned]
    path = tmp_path / "acetate.sdf"
    path.write_text("".join(write.v2000(symbols, x, bonds, f"shape {i}") for i, x in enumerate(shapes)))
    (tmp_path / "template.mol2").write_text(write.mol2(symbols, PLACES, bonds))
    return path, tmp_path / "template.mol2"
