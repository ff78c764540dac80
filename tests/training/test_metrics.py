import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sddfkit.training.metrics import FitErrors, energy_force_errors, mae, rmse
from sddfkit.units import EV_TO_KCAL_MOL

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=20)


@given(NUMBERS)
def test_mae_is_never_above_rmse(errors: list[float]) -> None:
    zero = np.zeros(len(errors))
    assert mae(errors, zero) <= rmse(errors, zero) * (1 + 1e-12) + 1e-150
    assert mae(errors, zero, kcal_mol=True) == pytest.approx(mae(errors, zero) * EV_TO_KCAL_MOL)


def test_summary_of_a_set_of_molecules() -> None:
    forces = np.zeros((5, 3))
    summary = energy_force_errors([1.0, 2.0], [1.0, 4.0], forces + 1.0, forces, [1, 4])
    assert summary["energy_mae_kcal_mol"] == pytest.approx(EV_TO_KCAL_MOL)
    assert summary["energy_rmse_kcal_mol"] == pytest.approx(math.sqrt(2) * EV_TO_KCAL_MOL)
    assert summary["energy_mae_mev_per_atom"] == pytest.approx(250.0)
    assert summary["force_mae_kcal_mol_A"] == summary["force_rmse_kcal_mol_A"] == pytest.approx(EV_TO_KCAL_MOL)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(2,\), target \(1,\)"):
        mae([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="no values"):
        mae([], [])


def test_fit_errors_weigh_batches_by_size_and_clones_are_independent() -> None:
    train = FitErrors()
    validation = train.clone()
    train.update(torch.tensor(1.0), torch.tensor([2.0]), torch.ones(2, 3))
    train.update(torch.tensor(4.0), torch.tensor([-4.0, 3.0]), torch.zeros(4, 3))
    result = {key: float(value) for key, value in train.compute().items()}
    assert result == pytest.approx({"loss": 3.0, "energy_mae": 3.0, "force_mae": 1 / 3})
    assert float(validation.counts.sum()) == 0.0
