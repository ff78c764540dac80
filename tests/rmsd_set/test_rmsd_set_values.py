"""Counting by nauty, brute force over its automorphisms, and what is recorded where two methods disagree."""

import math

import numpy as np
import pytest

pytest.importorskip("pynauty", reason="pynauty is not installed (extra bench)")

from flashrmsd_cy._reference import all_mappings
from flashrmsd_cy._reference import brute_force as oracle
from sddfkit.rmsd_set import values as module
from sddfkit.rmsd_set.components import graph
from sddfkit.rmsd_set.symmetry import Group, automorphisms
from sddfkit.rmsd_set.values import brute_force, reference_values

LIMITS = {"brute_force_limit": 2000, "spyrmsd_limit": 24, "time_limit_s": 60.0}
PENTANE = ["C"] * 5, [(0, 1), (0, 2), (0, 3), (0, 4)]


def positions(k, n, seed=0):
    return np.random.default_rng(seed).normal(size=(k, n, 3))


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("name", ["ETH", "BNZ", "TFE", "ACT", "DMS", "IPA"])
def test_nauty_lists_the_mappings_that_backtracking_finds(few, name, hydrogens):
    item = few[name]
    elements, bonds = graph(item, range(len(item.elements)) if hydrogens else item.heavy)
    group = automorphisms(elements, bonds)
    listed = {tuple(row) for row in group.elements(5000).tolist()}
    assert listed == {tuple(row) for row in all_mappings(elements, bonds, elements, bonds)}
    assert group.order == len(listed) and group.agrees(len(listed)) and not group.agrees(len(listed) + 1)
    assert group.n_orbits == len({frozenset(row[i] for row in listed) for i in range(len(elements))})


def test_a_group_above_the_limit_is_not_listed():
    group = automorphisms(*PENTANE)
    assert group.order == 24 and group.elements(23) is None and len(group.elements(24)) == 24


def test_large_orders_agree_to_the_digits_that_nauty_gives():
    twelve_arms = [(0, arm) for arm in range(1, 13)]
    three_hands = [(arm, 10 + 3 * arm + hand) for arm in range(1, 13) for hand in range(3)]
    group = automorphisms(["C"] * 49, twelve_arms + three_hands)
    exact = math.factorial(12) * 6**12
    assert exact > 10**17 and group.agrees(exact) and not group.agrees(exact + exact // 10**9)


@pytest.mark.parametrize("align", [False, True])
def test_brute_force_is_that_of_the_oracle(few, align):
    elements, bonds = graph(few["ACT"], range(7))
    x = positions(3, len(elements))
    listed = automorphisms(elements, bonds).elements(100)
    found = brute_force(x, listed, [(0, 1), (2, 0)], align)
    for value, (i, j) in zip(found, [(0, 1), (2, 0)], strict=True):
        assert value == pytest.approx(oracle(x[i], x[j], elements, bonds, elements, bonds, align=align)[0], abs=1e-9)


def test_values_are_verified_and_have_no_failures():
    found = reference_values(*PENTANE, positions(4, 5), **LIMITS)
    assert found.n_automorphisms == found.nauty == 24 and not found.failures
    assert found.method_sc == found.method_min == module.BRUTE_FORCE
    assert len(found.sc) == len(found.least) == 6 and all(m <= s for s, m in zip(found.sc, found.least, strict=True))
    assert found.spyrmsd in ("3 pairs compared", "not installed")


def test_above_the_limit_the_search_alone_gives_the_same():
    slow = reference_values(*PENTANE, positions(4, 5), **LIMITS)
    fast = reference_values(*PENTANE, positions(4, 5), **(LIMITS | {"brute_force_limit": 23}))
    assert fast.method_sc == fast.method_min == module.OWN
    assert fast.sc == pytest.approx(slow.sc, abs=1e-5) and fast.least == pytest.approx(slow.least, abs=1e-5)


def test_a_wrong_count_is_a_recorded_failure(monkeypatch):
    monkeypatch.setattr(module, "_own_count", lambda molecule, limit: 12)
    found = reference_values(*PENTANE, positions(0, 5), **LIMITS)
    assert found.failures == [{"class": "automorphisms", "reason": "flashrmsd_cy counts 12, nauty 24"}]
    assert found.n_automorphisms == 12 and found.nauty == 24


def test_generators_that_do_not_reach_the_order_are_a_recorded_failure(monkeypatch):
    cut = Group(24, 2, [[0, 2, 1, 3, 4]])
    monkeypatch.setattr(module, "automorphisms", lambda elements, bonds: cut)
    found = reference_values(*PENTANE, positions(3, 5), **LIMITS)
    assert [item["class"] for item in found.failures] == ["automorphisms"] and found.method_sc == module.OWN


@pytest.mark.parametrize("align", [False, True])
def test_a_wrong_value_is_a_recorded_failure_and_brute_force_is_kept(monkeypatch, align):
    right = reference_values(*PENTANE, positions(3, 5), **LIMITS)
    search = module.rmsd_matrix

    def wrong(x, molecule, **options):
        return search(x, molecule, **options) + 0.01 * (options["align"] == align)

    monkeypatch.setattr(module, "rmsd_matrix", wrong)
    found = reference_values(*PENTANE, positions(3, 5), **LIMITS)
    assert [item["class"] for item in found.failures] == ["value"]
    assert ("minimised" if align else "fixed") in found.failures[0]["reason"]
    assert (found.sc, found.least) == (right.sc, right.least)


def test_a_search_that_was_stopped_leaves_a_blank_and_a_failure(monkeypatch):
    def stopped(*given, **options):
        raise module.SearchLimitError("too long")

    class Bound:
        status, lower, upper, n_automorphisms = "bound", 0.5, 1.0, 24

    monkeypatch.setattr(module, "rmsd_matrix", stopped)
    monkeypatch.setattr(module, "rmsd", lambda *given, **options: Bound)
    found = reference_values(*PENTANE, positions(2, 5), **(LIMITS | {"brute_force_limit": 1, "spyrmsd_limit": 1}))
    assert found.sc == found.least == [None]
    assert [item["class"] for item in found.failures] == ["limit", "limit"]
    assert "0.500000 to 1.000000" in found.failures[0]["reason"]
