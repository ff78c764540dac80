"""Levels are data; a missing program is a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sddfkit.qc import Level, ProgramMissingError
from sddfkit.qc.harnesses import HARNESSES

PYSCF_FIRST = {"pyscf": {"cartesian": True}, "tblite": {}}


def test_every_shipped_level_can_be_specified_for_each_of_its_programs(levels: Callable[[str], Level]) -> None:
    names = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "level").glob("*.yaml"))
    assert {"gfn2", "wb97x_631gd"} <= set(names)
    for name in names:
        level = levels(name)
        for program in level.programs:
            assert program in HARNESSES
            specification = level.specification(program)
            assert specification.program == program
            assert specification.keywords == level.programs[program]
            assert isinstance(specification.keywords, dict)


def test_wb97x_prefers_psi4_and_is_cartesian_and_fitted_alike(levels: Callable[[str], Level]) -> None:
    level = levels("wb97x_631gd")
    assert list(level.programs) == ["psi4", "pyscf"]
    psi4, pyscf = level.programs["psi4"], level.programs["pyscf"]
    assert psi4["puream"] is False and pyscf["cartesian"] is True
    assert psi4["df_basis_scf"] == pyscf["auxbasis"]
    assert [psi4["dft_radial_points"], psi4["dft_spherical_points"]] == pyscf["atom_grid"]


def test_choose_takes_the_first_that_is_found() -> None:
    chosen = Level("x", "wb97x", "6-31g(d)", PYSCF_FIRST).choose()
    assert chosen.program == "pyscf"
    assert chosen.version.count(".") >= 1
    assert "first choice" in chosen.why


def test_choose_by_name_insists() -> None:
    assert Level("x", "gfn2-xtb", None, PYSCF_FIRST, program="tblite").choose().why == "tblite was asked for by name"


def test_missing_psi4_is_named_and_the_next_taken(
    levels: Callable[[str], Level], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SDDFKIT_PSI4_PYTHON", raising=False)
    level = levels("wb97x_631gd")
    chosen = level.choose()
    assert chosen.program == "pyscf"
    assert "Psi4 was not found" in chosen.why
    insisting = Level(level.name, level.method, level.basis, level.programs, program="psi4")
    with pytest.raises(ProgramMissingError, match="conda install -c conda-forge psi4"):
        insisting.choose()


def test_a_level_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="lists no programs"):
        Level("x", "wb97x", "6-31g(d)", {})
    with pytest.raises(ValueError, match="no keywords for program 'orca'"):
        Level("x", "wb97x", "6-31g(d)", PYSCF_FIRST, program="orca")
    with pytest.raises(ValueError, match="must be positive"):
        Level("x", "wb97x", "6-31g(d)", PYSCF_FIRST, threads=0)
    with pytest.raises(ValueError, match="no keywords for 'psi4'"):
        Level("x", "wb97x", "6-31g(d)", PYSCF_FIRST).specification("psi4")
    with pytest.raises(ProgramMissingError, match="no harness for 'orca': known: psi4, pyscf, tblite"):
        Level("x", "wb97x", "6-31g(d)", {"orca": {}}).choose()


def test_the_exact_level_is_exact_and_alike(levels: Callable[[str], Level]) -> None:
    level = levels("wb97x_631gd_exact")
    psi4, pyscf = level.programs["psi4"], level.programs["pyscf"]
    assert (level.method, level.basis) == (levels("wb97x_631gd").method, levels("wb97x_631gd").basis)
    assert psi4["scf_type"] == "pk" and pyscf["density_fit"] is False
    assert [psi4["dft_radial_points"], psi4["dft_spherical_points"]] == pyscf["atom_grid"] == [99, 590]
    assert psi4["dft_pruning_scheme"] == "flat" and pyscf["prune"] is None
    assert psi4["dft_bs_radius_alpha"] == pyscf["psi4_radius_alpha"]
