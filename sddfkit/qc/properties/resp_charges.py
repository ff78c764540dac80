"""RESP charges: fitted to the electrostatic potential at HF/6-31G(d), whatever the level of the energy.

The fit is `sddfkit.qc.resp`; bonds are those of the molecule's QCSchema document, or else follow from the distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from qcelemental import periodictable
from qcelemental.molutil import guess_connectivity

from sddfkit.qc.properties.base import Property, PropertyError, extras_value
from sddfkit.qc.resp import FitError, resp_charges


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    potential, molecule = extras_value(result, "electrostatic_potential"), result["molecule"]
    symbols = [str(symbol) for symbol in molecule["symbols"]]
    positions_bohr = np.asarray(molecule["geometry"], dtype=np.float64).reshape(-1, 3)
    bonds = molecule.get("connectivity") or guess_connectivity(np.array(symbols), positions_bohr)
    try:
        return resp_charges(
            [periodictable.to_Z(symbol) for symbol in symbols],
            positions_bohr,
            [bond[:2] for bond in bonds],
            float(molecule["molecular_charge"]),
            potential["points_bohr"],
            potential["potential_hartree"],
        )
    except FitError as error:
        raise PropertyError(str(error)) from error


RESP = Property("resp", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("electrostatic_potential",))
