"""Matrices in the atomic-orbital (AO) basis, and what one must know of its functions to use them. NumPy alone.

Programs differ in the order of basis functions and in their scale, so that a matrix without its `Basis` means little.
A function of a shell on an atom at R, with s = r − R, is

    χ(r) = P(s) Σ_k c_k exp(−a_k s²)

with P = x^i y^j z^k (Cartesian) or the real solid harmonic S_lm(s) in Racah's normalisation, S_l0(0, 0, z) = z^l. All
scale is in the coefficients c_k, so there is no further convention to know.

    psi4, pyscf = Basis.from_document(first["ao_basis"]), Basis.from_document(second["ao_basis"])
    psi4.to(pyscf).density(unpack(first["density_matrix"]))          # now in PySCF's order and scale
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from sddfkit.qc.errors import CalculationError

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput

_SAME_EXPONENT: Final = 1e-6
_SAME_SHAPE: Final = 1e-5
"""Relative: programs read one published table, but normalise with constants of their own."""

_NEGLIGIBLE: Final = 1e-11
"""A shell whose radial part is smaller than this on all points of a block is left out there."""


class BasisError(ValueError):
    """Two calculations have no common basis functions, or a document holds no basis."""


Components = tuple[tuple[int, int, int], ...] | tuple[int, ...]


class Shell(NamedTuple):
    """The functions on one atom that share their radial part.

    atom : index into the molecule
    l : angular momentum
    exponents : (k,) float64, bohr⁻²
    coefficients : (k,) float64, of unnormalised Gaussians
    components : in the program's order; powers (i, j, k) of x, y, z, or m of a spherical function
    """

    atom: int
    l: int  # noqa: E741
    exponents: np.ndarray
    coefficients: np.ndarray
    components: Components


class Basis(NamedTuple):
    """All shells of a molecule, in the order in which a program writes its matrices."""

    shells: tuple[Shell, ...]

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """Read what `document` wrote.

        Raises
        ------
        BasisError
            If it holds something else.
        """
        try:
            return cls(
                tuple(
                    Shell(
                        int(shell["atom"]),
                        int(shell["l"]),
                        np.asarray(shell["exponents"], dtype=np.float64),
                        np.asarray(shell["coefficients"], dtype=np.float64),
                        _components(shell["components"]),
                    )
                    for shell in document["shells"]
                )
            )
        except (KeyError, TypeError) as error:
            raise BasisError(f"this document holds no basis: {error!r}") from error

    def document(self) -> dict[str, Any]:
        """As JSON-able mapping, which says itself what it means."""
        return {
            "convention": "chi = P * sum_k coefficients[k] * exp(-exponents[k] * s**2), s from the atom in bohr; P: "
            "x**i*y**j*z**k for components [i, j, k], the real solid harmonic with S_l0(0, 0, z) = z**l for m",
            "shells": [
                {
                    "atom": shell.atom,
                    "l": shell.l,
                    "exponents": shell.exponents.tolist(),
                    "coefficients": shell.coefficients.tolist(),
                    "components": [list(c) if isinstance(c, tuple) else c for c in shell.components],
                }
                for shell in self.shells
            ],
        }

    def __len__(self) -> int:
        """Number of functions."""
        return sum(len(shell.components) for shell in self.shells)

    @property
    def atoms(self) -> np.ndarray:
        """Atom of each function, (nao,) int."""
        return np.repeat([shell.atom for shell in self.shells], [len(shell.components) for shell in self.shells])

    def values(self, positions_bohr: np.ndarray, points_bohr: np.ndarray) -> np.ndarray:
        """The functions at some points.

        Parameters
        ----------
        positions_bohr : (n, 3) float64
            Of the atoms.
        points_bohr : (p, 3) float64

        Returns
        -------
        (p, nao) float64, bohr^(-3/2)
        """
        found = np.zeros((len(points_bohr), len(self)))
        for columns, values in self._blocks(positions_bohr, points_bohr):
            found[:, columns] = values
        return found

    def density(self, matrix: np.ndarray, positions_bohr: np.ndarray, points_bohr: np.ndarray) -> np.ndarray:
        """Electron density (p,) in bohr⁻³ of a density matrix (nao, nao) in this basis; other arguments as `values`."""
        blocks = list(self._blocks(positions_bohr, points_bohr))
        if not blocks:
            return np.zeros(len(points_bohr))
        here = np.concatenate([np.arange(columns.start, columns.stop) for columns, _ in blocks])
        values = np.concatenate([values for _, values in blocks], axis=1)
        return np.einsum("pi,pi->p", values @ matrix[np.ix_(here, here)], values)

    def to(self, other: Basis) -> Change:
        """How matrices in this basis become matrices in `other`, which holds the same functions otherwise.

        Raises
        ------
        BasisError
            If a function of the one has no counterpart in the other.
        """
        if len(self) != len(other):
            raise BasisError(f"the one basis has {len(self)} functions, the other {len(other)}")
        left = list(self._numbered())
        source: list[int] = []
        factor: list[float] = []
        for shell in other.shells:
            fits = ((place, ratio) for place, (_, one) in enumerate(left) if (ratio := _ratio(one, shell)) is not None)
            place, ratio = next(fits, (-1, 0.0))
            if place < 0:
                raise BasisError(
                    f"atom {shell.atom} has a shell with l = {shell.l} and the exponents {shell.exponents.tolist()} in "
                    "the one basis alone: these are different basis sets, or orders of atoms"
                )
            first, one = left.pop(place)
            source += [first + list(one.components).index(component) for component in shell.components]
            factor += [ratio] * len(shell.components)
        return Change(np.array(source), np.array(factor))

    def _numbered(self) -> Iterator[tuple[int, Shell]]:
        first = 0
        for shell in self.shells:
            yield first, shell
            first += len(shell.components)

    def _blocks(self, positions_bohr: np.ndarray, points_bohr: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Columns and values (p, functions of one shell) of the shells that reach any of the points."""
        atom = -1
        harmonics: dict[tuple[int, int], np.ndarray] = {}
        highest: dict[int, int] = {}
        for shell in self.shells:
            highest[shell.atom] = max(shell.l, highest.get(shell.atom, 0))
        for first, shell in self._numbered():
            if shell.atom != atom:
                atom = shell.atom
                s = points_bohr - positions_bohr[atom]
                square, harmonics = np.einsum("px,px->p", s, s), {}
            nearest = float(square.min()) if len(square) else np.inf
            if np.abs(shell.coefficients * np.exp(-shell.exponents * nearest)).max() < _NEGLIGIBLE:
                continue
            radial = np.zeros(len(square))
            for exponent, coefficient in zip(shell.exponents, shell.coefficients, strict=True):
                if abs(coefficient) * np.exp(-exponent * nearest) >= _NEGLIGIBLE:
                    radial += coefficient * np.exp(-exponent * square)
            values = np.empty((len(square), len(shell.components)))
            components: tuple[Any, ...] = shell.components
            for column, component in enumerate(components):
                if isinstance(component, int):
                    harmonics = harmonics or solid_harmonics(highest[atom], s)
                    values[:, column] = harmonics[shell.l, component] * radial
                else:
                    values[:, column] = _monomial(s, component) * radial
            yield slice(first, first + len(shell.components)), values


class Change(NamedTuple):
    """From one basis to another: function i of the new one is factor[i] times function source[i] of the old one."""

    source: np.ndarray
    factor: np.ndarray

    def operator(self, matrix: np.ndarray) -> np.ndarray:
        """An overlap or Fock matrix, (…, nao, nao), in the new basis."""
        return matrix[..., self.source[:, None], self.source] * np.outer(self.factor, self.factor)

    def density(self, matrix: np.ndarray) -> np.ndarray:
        """A density matrix, (…, nao, nao), in the new basis."""
        return matrix[..., self.source[:, None], self.source] / np.outer(self.factor, self.factor)


def solid_harmonics(highest: int, s: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Real solid harmonics S_lm at vectors (p, 3), by (l, m), up to l = highest; S_l0(0, 0, z) = z^l.

    T. Helgaker, P. Jørgensen, J. Olsen, Molecular Electronic-Structure Theory (2000), equations 6.4.70 to 6.4.73.
    """
    x, y, z = s.T
    square = np.einsum("px,px->p", s, s)
    found = {(0, 0): np.ones(len(s))}
    for l in range(highest):  # noqa: E741
        factor = np.sqrt((2 if l == 0 else 1) * (2 * l + 1) / (2 * l + 2))
        below = found[l, -l] if l else np.zeros(len(s))
        found[l + 1, l + 1] = factor * (x * found[l, l] - y * below)
        found[l + 1, -l - 1] = factor * (y * found[l, l] + x * below)
        for m in range(-l, l + 1):
            before = np.sqrt((l + m) * (l - m)) * square * found[l - 1, m] if abs(m) < l else 0.0
            found[l + 1, m] = ((2 * l + 1) * z * found[l, m] - before) / np.sqrt((l + m + 1) * (l - m + 1))
    return found


def pack(matrix: np.ndarray) -> dict[str, Any]:
    """A float64 array for JSON: ``{"dtype": "<f8", "shape": […], "base64": …}``, 11 bytes a number."""
    whole = np.ascontiguousarray(matrix, dtype="<f8")
    return {"dtype": "<f8", "shape": list(whole.shape), "base64": base64.b64encode(whole.tobytes()).decode()}


def unpack(document: Mapping[str, Any]) -> np.ndarray:
    """The array that `pack` was given.

    >>> unpack(pack(np.eye(2))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    flat = np.frombuffer(base64.b64decode(document["base64"]), dtype=document["dtype"])
    return flat.reshape(document["shape"]).astype(np.float64)


MATRICES: Final = ("ao_basis", "overlap_matrix", "density_matrix", "fock_matrix")
"""What the extras of a result hold where its keywords ask for matrices."""


def extras(
    atomic_input: AtomicInput, basis: Basis, *, overlap: np.ndarray, density: np.ndarray, fock: np.ndarray
) -> dict[str, Any]:
    """What the keywords ``matrices``, ``hirshfeld`` and ``mbis`` add to the extras of a result, in any program.

    Parameters
    ----------
    atomic_input : AtomicInput
    basis : Basis
    overlap : (nao, nao) float64
    density : (s, nao, nao) float64
        Of all electrons (s = 1), or of α and β (s = 2).
    fock : (s, nao, nao) float64, hartree

    Raises
    ------
    CalculationError
        "unknown" if the density cannot be divided between the atoms.
    """
    from sddfkit.qc import partition

    found: dict[str, Any] = {}
    keywords, molecule = atomic_input.specification.keywords, atomic_input.molecule
    if keywords.get("matrices"):
        matrices = (pack(matrix) for matrix in (overlap, density, fock))
        found |= zip(MATRICES, (basis.document(), *matrices), strict=True)
    schemes = {name: scheme for name, scheme in partition.SCHEMES.items() if keywords.get(name)}
    if not schemes:
        return found
    numbers, positions = np.asarray(molecule.atomic_numbers), np.asarray(molecule.geometry).reshape(-1, 3)
    try:
        electrons = partition.cloud(
            basis, density.sum(axis=0), numbers, positions, numbers.sum() - molecule.molecular_charge
        )
        charges = {f"{name}_charges": scheme(electrons, numbers, positions) for name, scheme in schemes.items()}
    except partition.PartitionError as error:
        raise CalculationError("unknown", str(error)) from error
    return found | {name: values.tolist() for name, values in charges.items()}


def cartesian_powers(l: int) -> tuple[tuple[int, int, int], ...]:  # noqa: E741
    """Powers of x, y, z of a Cartesian shell in the order of Psi4 and PySCF: those of x falling, then those of y.

    >>> cartesian_powers(1)
    ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    """
    return tuple((i, j, l - i - j) for i in range(l, -1, -1) for j in range(l - i, -1, -1))


def _components(written: Any) -> Components:
    """Powers are lists in JSON."""
    if written and isinstance(written[0], (list, tuple)):
        return tuple((int(i), int(j), int(k)) for i, j, k in written)
    return tuple(int(m) for m in written)


def _monomial(s: np.ndarray, powers: tuple[int, int, int]) -> np.ndarray:
    found = np.ones(len(s))
    for axis, power in enumerate(powers):
        for _ in range(power):
            found = found * s[:, axis]
    return found


def _ratio(one: Shell, other: Shell) -> float | None:
    """By what the functions of `one` are multiplied to be those of `other`; None if they differ otherwise."""
    if (one.atom, one.l, len(one.components)) != (other.atom, other.l, len(other.components)):
        return None
    if set(one.components) != set(other.components):
        return None
    (a, c), (b, d) = _primitives(one), _primitives(other)
    if len(a) != len(b) or not np.allclose(a, b, rtol=_SAME_EXPONENT, atol=0.0):
        return None
    ratio = float(c @ d / (c @ c))
    return ratio if np.allclose(ratio * c, d, rtol=_SAME_SHAPE, atol=_SAME_SHAPE * np.abs(d).max()) else None


def _primitives(shell: Shell) -> tuple[np.ndarray, np.ndarray]:
    """Exponents, falling, and their coefficients; those that play no part are left out."""
    used = shell.coefficients != 0.0
    order = np.argsort(-shell.exponents[used], kind="stable")
    return shell.exponents[used][order], shell.coefficients[used][order]
