import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sddfkit.models.geometry import (
    Edges,
    Neighbourhood,
    bessel,
    envelope,
    pair_index,
    soft_bound,
    soft_norm,
    sum_over,
)


def derivative(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(values.sum(), x, create_graph=True)[0]


def test_envelope_vanishes_with_two_derivatives_at_the_cutoff() -> None:
    d = torch.tensor([5.0 - 1e-7, 5.0 + 1e-7], dtype=torch.float64, requires_grad=True)
    value = envelope(d, 5.0)
    first = derivative(value, d)
    second = derivative(first, d)
    for order in (value, first, second):
        torch.testing.assert_close(order, torch.zeros(2).double(), rtol=0, atol=1e-6)


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_envelope_falls_from_one_to_zero(a: float, b: float) -> None:
    near, far = envelope(torch.tensor([min(a, b), max(a, b)], dtype=torch.float64), 5.0).tolist()
    assert 1.0 >= near >= far >= 0.0 or math.isclose(near, far, abs_tol=1e-12)


def test_bessel_functions_are_orthonormal() -> None:
    # ∫ R_n R_m r² dr over the sphere = δ_nm, by the midpoint rule.
    r = (torch.arange(20000, dtype=torch.float64) + 0.5) * (5.0 / 20000)
    basis = bessel(r, 5.0, 6) * r[:, None]
    overlap = basis.T @ basis * (5.0 / 20000)
    torch.testing.assert_close(overlap, torch.eye(6).double(), rtol=0, atol=1e-6)


def test_pairs_are_unordered_and_numbered_without_gaps() -> None:
    a, b = torch.meshgrid(torch.arange(7), torch.arange(7), indexing="ij")
    index = pair_index(a, b)
    assert torch.equal(index, index.T)
    assert index.unique().tolist() == list(range(28))


def test_soft_norm_is_smooth_at_zero_and_the_norm_far_away() -> None:
    zero = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    assert derivative(soft_norm(zero), zero).tolist() == [[0.0, 0.0, 0.0]]
    assert soft_norm(torch.tensor([[3e3, 4e3, 0.0]])).item() == pytest.approx(5e3)


def test_soft_bound_keeps_exponentials_finite() -> None:
    wild = soft_bound(torch.tensor([-1e6, -0.1, 0.0, 0.1, 1e6]), bound=12.0)
    assert wild.exp().isfinite().all()
    torch.testing.assert_close(wild[1:4], torch.tensor([-0.1, 0.0, 0.1]), rtol=1e-4, atol=0)


def test_sum_over_adds_rows_by_index() -> None:
    total = sum_over(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), 4)
    assert total.tolist() == [[2.0], [0.0], [5.0], [0.0]]


def test_a_projection_is_that_of_each_directed_edge() -> None:
    draw = torch.Generator().manual_seed(0)
    even, odd, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((7, 5), (7, 3), (4, 8), (4,))
    )
    one, other = torch.cat([even, odd], dim=1), torch.cat([even, -odd], dim=1)
    expected = torch.cat([one @ weight.T + bias, other @ weight.T + bias])
    nothing, linear = torch.zeros(0), torch.nn.Linear(8, 4).double()
    linear.load_state_dict({"weight": weight, "bias": bias})
    found = Edges(nothing, nothing, nothing, even, odd, nothing, nothing).project(linear)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@given(st.integers(0, 10**6), st.integers(2, 7))
def test_surroundings_are_sums_over_pairs_of_neighbours(seed: int, n: int) -> None:
    """The moments' products against the addition theorem: Σ_m Y_lm(u) Y_lm(v) = P_l(u·v), over all pairs, slowly."""
    draw = torch.Generator().manual_seed(seed)
    pos = 2.0 * torch.randn(n, 3, generator=draw, dtype=torch.float64)
    element, both = torch.zeros(n, dtype=torch.long), (~torch.eye(n, dtype=torch.bool)).nonzero().T
    layer = Neighbourhood(n_elements=1, n_bond_types=1, width=4, n_radial=3, n_normals=2, cutoff=4.0).double()
    edges, found = layer(pos, element, both, torch.zeros(both.shape[1], dtype=torch.long))
    channels = edges.envelope * layer.normal(torch.cat([edges.even, edges.even])[:, :4])
    unit, vector = edges.unit, pos[edges.source] - pos[edges.target]
    torch.testing.assert_close(unit * edges.distance, vector, rtol=0, atol=1e-12)
    for atom in range(n):
        mine = edges.target == atom
        weights = channels[mine]
        cosine = unit[mine] @ unit[mine].T
        expected = [weights.sum(0)]
        for legendre in ((3.0 * cosine * cosine - 1.0) / 2.0, cosine):
            expected.append((weights.T @ legendre @ weights)[[0, 0, 1], [0, 1, 1]])
        torch.testing.assert_close(found[atom], soft_bound(torch.cat(expected)), rtol=0, atol=1e-10)
