import json

import numpy as np
import pytest

from sddfkit.data.references import (
    ReferenceEnergies,
    ReferenceError_,
    element_counts,
    fit_reference_energies,
)

TRUE = {1: -16.0, 6: -1035.5, 8: -2045.25}
ISOLATED = {1: -13.6, 6: -1029.0, 8: -2041.0}
FORMULAS = ([6, 1], [6, 6, 1], [8, 1, 1], [6, 8, 1], [6, 8, 8], [1, 1])


@pytest.fixture
def labelled(chain):
    return [chain(numbers, energy=sum(TRUE[z] for z in numbers)) for numbers in FORMULAS]


def test_exact_on_additive_energies(labelled, chain):
    fit = fit_reference_energies(labelled, ISOLATED, ridge=0.0)
    for z, energy in TRUE.items():
        assert fit.energies[z] == pytest.approx(energy, abs=1e-9)
    nearly = fit_reference_energies([*labelled, chain([6, 1])], ISOLATED, ridge=1e-9)
    assert nearly.energies[8] == pytest.approx(TRUE[8], abs=1e-6), "an unlabelled record does not count"


def test_ridge_pulls_rare_elements_to_the_isolated_atom(chain):
    common = [chain([6, 1], energy=TRUE[6] + TRUE[1])] * 50 + [chain([1, 1], energy=2 * TRUE[1])] * 50
    rare = chain([16, 1], energy=-10830.0 + TRUE[1])
    isolated = ISOLATED | {16: -10825.0}
    for ridge, share in ((0.0, 0.0), (1.0, 0.5), (1e6, 1.0)):
        fit = fit_reference_energies([*common, rare], isolated, ridge=ridge)
        pulled = (fit.energies[16] + 10830.0) / 5.0
        assert pulled == pytest.approx(share, abs=0.05), ridge
    fit = fit_reference_energies([*common, rare], isolated, ridge=1.0)
    assert abs(fit.energies[6] - TRUE[6]) < 0.3, "while a common one follows the labels"


def test_elements_without_labels_keep_their_isolated_atom(labelled):
    fit = fit_reference_energies(labelled, ISOLATED | {9: -2713.0})
    assert fit.energies[9] == pytest.approx(-2713.0, abs=1e-9)


def test_elements_without_isolated_atom_follow_the_labels(labelled):
    fit = fit_reference_energies(labelled, {1: -13.6, 6: -1029.0}, ridge=1e-6)
    assert fit.energies[8] == pytest.approx(TRUE[8], abs=1e-3)


def test_undetermined_elements_are_refused_by_name(chain):
    only = [chain([16, 8], energy=-12870.0)]
    with pytest.raises(ReferenceError_, match="do not determine the reference energies of O, S;"):
        fit_reference_energies(only, {1: -13.6})
    assert set(fit_reference_energies(only, {8: -2041.0}).energies) == {8, 16}


def test_what_cannot_be_fitted(chain, labelled):
    with pytest.raises(ReferenceError_, match="none of the 1 records has an energy"):
        fit_reference_energies([chain([6, 1])], ISOLATED)
    with pytest.raises(ReferenceError_, match="not finite"):
        fit_reference_energies([chain([6, 1], energy=np.nan)], ISOLATED)
    with pytest.raises(ReferenceError_, match="ridge=-1"):
        fit_reference_energies(labelled, ISOLATED, ridge=-1)


def test_total_and_unseen_element():
    references = ReferenceEnergies(TRUE, "by hand")
    assert references.total(np.array([8, 1, 1])) == pytest.approx(TRUE[8] + 2 * TRUE[1])
    assert references.total([]) == 0
    with pytest.raises(ReferenceError_, match=r"no reference energy for S, Cl \(known: H C O\)"):
        references.total([1, 16, 17])


def test_json_round_trip():
    references = ReferenceEnergies(TRUE, "by hand")
    document = json.loads(json.dumps(references.to_dict()))
    assert document["energies"]["C"] == -1035.5
    assert ReferenceEnergies.from_dict(document) == references


def test_test_rows_would_change_the_fit(labelled, chain):
    """The fit has no fold of its own: what it is given it uses. A leak is visible, so it can be tested for."""
    test_row = chain([6, 8, 1], energy=sum(TRUE[z] for z in (6, 8, 1)) + 5.0)
    clean = fit_reference_energies(labelled, ISOLATED)
    leaked = fit_reference_energies([*labelled, test_row], ISOLATED)
    assert clean == fit_reference_energies(list(labelled), ISOLATED)
    assert max(abs(clean.energies[z] - leaked.energies[z]) for z in TRUE) > 0.1


def test_counts(chain):
    counts, elements = element_counts([chain([6, 1, 1]), chain([8, 1])])
    assert elements == [1, 6, 8]
    assert counts.tolist() == [[2, 1, 0], [1, 0, 1]]
