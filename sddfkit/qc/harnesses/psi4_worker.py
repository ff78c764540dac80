"""Psi4 in a process of its own: started by `sddfkit.qc.harnesses.psi4` under whichever Python has Psi4.

Needs the standard library and Psi4 (1.3 or later) alone. ``psi4_worker.py --version`` prints ``{"version": …}``;
without arguments it reads one calculation per line and answers ``{"event": "started"}``, then
``{"event": "finished", …}`` with ``ok`` and, in hartree and bohr, energy, gradient (flat), dipole and extras, or
error_type, error_message, output_tail.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import traceback
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
from protocol import die_with_parent, send, take_streams  # type: ignore[import-not-found]

# This folder also holds our module psi4.py, which must not be taken for Psi4.
_HERE = sys.path[0]
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100

_OUTPUT = "psi4.out"
_TAIL_BYTES = 4000
_DEBYE_PER_EA0 = 2.541746473  # CODATA 2014; Psi4 before 1.4 knows dipoles in debye only


class OptionError(ValueError):
    """Psi4 did not take an option as it was meant."""


def calculate(job: dict[str, Any]) -> dict[str, Any]:
    """Energy, gradient and dipole of one molecule by one SCF.

    Parameters
    ----------
    job : dict
        symbols, geometry (flat, bohr), charge, multiplicity, method, driver, options (with basis), orbitals (whether
        the AO basis and its matrices are wanted), resp_points (None, or where HF's potential is wanted), resp_options,
        threads, memory_bytes.

    Returns
    -------
    dict
        The fields of a successful answer.
    """
    import psi4

    psi4.core.set_output_file(_OUTPUT, False)
    psi4.set_num_threads(job["threads"], quiet=True)
    psi4.core.set_memory_bytes(int(job["memory_bytes"]), True)
    _set_options(psi4, {"reference": _reference(job), **job["options"]})
    molecule = psi4.geometry(_geometry(job))
    if job["driver"] == "gradient":
        matrix, wfn = psi4.gradient(job["method"], molecule=molecule, return_wfn=True)
        gradient = _flat(matrix)
    else:
        gradient = None
        wfn = psi4.energy(job["method"], molecule=molecule, return_wfn=True)[1]
    values = wfn.variables()  # the global variables are cleared by gradient(), the wavefunction's are not
    answer = {
        "ok": True,
        "energy": float(wfn.energy()),
        "gradient": gradient,
        "dipole": _dipole(values),
        "nbasis": int(wfn.nso()),
        "nmo": int(wfn.nmo()),
        "nalpha": int(wfn.nalpha()),
        "nbeta": int(wfn.nbeta()),
        "nuclear_repulsion_energy": float(molecule.nuclear_repulsion_energy()),
        "iterations": int(values["SCF ITERATIONS"]),
        "extras": dict(_charges(psi4, wfn), **_frontier(wfn)),
    }
    if job["orbitals"]:
        answer["orbitals"] = _orbitals(wfn)
    if job["resp_points"] is not None:
        answer["resp_potential"] = _potential(psi4, job, molecule)
    return answer


def _potential(psi4: Any, job: dict[str, Any], molecule: Any) -> list[float]:
    """Electrostatic potential (hartree/e) of a Hartree–Fock calculation at some points (bohr, as the molecule)."""
    psi4.core.clean()  # the integrals of the first calculation lie in files that this one writes, too
    _set_options(psi4, {"reference": _reference(dict(job, method="hf")), **job["resp_options"]})
    wfn = psi4.energy("hf", molecule=molecule, return_wfn=True)[1]
    points = psi4.core.Matrix.from_list(job["resp_points"])
    return _flat(psi4.core.ESPPropCalc(wfn).compute_esp_over_grid_in_memory(points))


def _orbitals(wfn: Any) -> dict[str, Any]:
    """Shells of the basis set in Psi4's order, and matrices (nao, nao) as base64 of float64; those of each spin."""
    basis = wfn.basisset()
    shells = []
    for index in range(basis.nshell()):
        shell = basis.shell(index)
        primitives = range(shell.nprimitive)
        shells.append(
            {
                "atom": int(shell.ncenter),
                "l": int(shell.am),
                "spherical": bool(shell.is_pure()),
                "exponents": [float(shell.exp(k)) for k in primitives],
                "coefficients": [float(shell.coef(k)) for k in primitives],
            }
        )
    return {
        "shells": shells,
        "overlap": _base64(wfn.S()),
        "density": [_base64(wfn.Da()), _base64(wfn.Db())],
        "fock": [_base64(wfn.Fa()), _base64(wfn.Fb())],
    }


def _base64(matrix: Any) -> str:
    return base64.b64encode(matrix.to_array().astype("<f8").tobytes()).decode()


def _charges(psi4: Any, wfn: Any) -> dict[str, list[float]]:
    """Atomic charges in e; the wavefunction holds those asked for last."""
    found = {}
    for kind in ("mulliken", "lowdin"):
        psi4.oeprop(wfn, kind.upper() + "_CHARGES")
        found[kind + "_charges"] = _flat(wfn.atomic_point_charges())
    return found


def _frontier(wfn: Any) -> dict[str, float]:
    """Orbital energies (hartree) on both sides of the gap, over both spins; what there is none of is left out."""
    spins = ((_flat(wfn.epsilon_a()), wfn.nalpha()), (_flat(wfn.epsilon_b()), wfn.nbeta()))
    occupied = [energy for energies, count in spins for energy in energies[:count]]
    empty = [energy for energies, count in spins for energy in energies[count:]]
    found = {"homo_hartree": max(occupied)}
    if empty:
        found["lumo_hartree"] = min(empty)
    return found


def _reference(job: dict[str, Any]) -> str:
    hartree_fock = job["method"].lower() in ("hf", "scf")
    return ("r" if job["multiplicity"] == 1 else "u") + ("hf" if hartree_fock else "ks")


def _geometry(job: dict[str, Any]) -> str:
    xyz = job["geometry"]
    atoms = [
        "{} {:.12f} {:.12f} {:.12f}".format(symbol, *xyz[3 * i : 3 * i + 3]) for i, symbol in enumerate(job["symbols"])
    ]
    frame = ["units bohr", "no_com", "no_reorient", "symmetry c1"]
    return "\n".join(["{} {}".format(job["charge"], job["multiplicity"]), *atoms, *frame])


def _set_options(psi4: Any, options: dict[str, Any]) -> None:
    """Set options and read them back: Psi4 silently ignores values of a wrong type."""
    for name, value in options.items():
        try:
            psi4.set_options({name: value})
        except Exception as error:
            raise OptionError(f"Psi4 refuses option {name} = {value!r}: {error}") from error
        taken = psi4.core.get_global_option(name)
        same = str(taken).lower() == value.lower() if isinstance(value, str) else float(taken) == float(value)
        if not same:
            raise OptionError(f"Psi4 took {taken!r} for option {name} = {value!r}; give it the right type")


def _dipole(values: dict[str, Any]) -> list[float]:
    """Dipole in e·bohr: an array since Psi4 1.4, three numbers in debye before."""
    if "SCF DIPOLE" in values:
        return _flat(values["SCF DIPOLE"])
    return [float(values["SCF DIPOLE " + axis]) / _DEBYE_PER_EA0 for axis in "XYZ"]


def _flat(array: Any) -> list[float]:
    """The elements of a Psi4 matrix or a NumPy array of any shape."""
    return [float(x) for x in (array.to_array() if hasattr(array, "to_array") else array).ravel()]


def _clean(psi4: Any) -> None:
    psi4.core.clean()
    psi4.core.clean_options()
    psi4.core.clean_variables()


def _failure(error: Exception) -> dict[str, Any]:
    names = [cls.__name__ for cls in type(error).__mro__]
    text = f"{type(error).__name__}: {str(error).strip()}"
    if any("ConvergenceError" in name for name in names):
        kind = "convergence"
    elif isinstance(error, MemoryError) or "not enough memory" in text.lower() or "bad_alloc" in text:
        kind = "memory"
    elif isinstance(error, OptionError) or any(name in ("ValidationError", "BasisSetNotFound") for name in names):
        kind = "input"
    elif "no space left" in text.lower() or "PSIO_ERROR" in text:
        kind = "disk"
    else:
        kind, text = "unknown", traceback.format_exc()
    return {"ok": False, "error_type": kind, "error_message": text, "output_tail": _output_tail()}


def _output_tail() -> str:
    try:
        with open(_OUTPUT, "rb") as stream:  # noqa: PTH123
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            return stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def main() -> None:
    """Answer calculations until the input ends."""
    die_with_parent()
    incoming, outgoing = take_streams()
    import psi4

    if "--version" in sys.argv[1:]:
        send(outgoing, {"version": psi4.__version__})
        return
    for line in incoming:
        send(outgoing, {"event": "started"})
        try:
            answer = calculate(json.loads(line))
        except Exception as error:
            answer = _failure(error)
        _clean(psi4)
        send(outgoing, dict(answer, event="finished"))


if __name__ == "__main__":
    main()
