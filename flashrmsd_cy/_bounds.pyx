# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Lower bounds of the symmetry-corrected RMSD that need no mapping: what every mapping leaves as it is.

A mapping exchanges atoms only within a class (a colour of the refined graph). Let X be the positions of a minus those of
the mapped, rotated b, so that n·RMSD² = |X|² at the optimum. Four facts are used, for each class and summed over classes.

1. Numbers x_i and y_π(i) on a line: Σ (x_i − y_π(i))² is least if both are sorted (rearrangement inequality). In the
   fixed frame this holds along x, y and z at once.
2. | |a_i| − |U b_j| | ≤ |a_i − U b_j|: after a fit, the distances to the centroid, sorted, bound |X|² likewise. (At the
   optimum the two centroids coincide.)
3. The mean p of a class does not depend on the mapping, and Σ |a_i − U b_π(i)|² = m·|p_a − U p_b|² + Σ |(a_i − p_a) −
   U (b_π(i) − p_b)|² for its m atoms. The first term, over all classes, is a fit of weighted points without any choice;
   the second is bounded by the sorted distances to p. Without symmetry this is the RMSD itself.
4. The triangle inequality. The symmetry-corrected RMSD is |x − g y| / √n, minimised over a group G of isometries g of
   the 3n coordinates: mappings, and if aligned also rotations and translations (those of both sides taken together).
   If g is best for (x, y) and h for (y, z), then d(x, z) ≤ |x − g h z| ≤ |x − g y| + |g y − g h z| = d(x, y) + d(y, z),
   all divided by √n, since g keeps lengths; and d(x, y) = d(y, x), since |x − g y| = |g⁻¹x − y|.
   Hence |d(x, y) − d(y, z)| ≤ d(x, z) too.

Preparing a conformer sorts its n numbers once; a pair is then O(n) without a search. NumPy is not used.
"""

from array import array

cimport cython
from libc.math cimport INFINITY, sqrt
from libc.stdlib cimport qsort

from flashrmsd_cy._horn cimport add, eigen, exceeds, largest

cdef double SLACK = 1e-13       # of the sum of squares: more than rounding can add to a bound


cdef int ascending(const void *x, const void *y) noexcept nogil:
    cdef double a = (<const double *>x)[0], b = (<const double *>y)[0]
    return (a > b) - (a < b)


cdef inline double apart(const double *x, const double *y, Py_ssize_t n, double enough) noexcept nogil:
    """Σ (x − y)², or a part of it that is at least `enough`."""
    cdef Py_ssize_t i = 0
    cdef double total = 0.0, d0, d1, d2, d3
    while i + 4 <= n:
        d0 = x[i] - y[i]
        d1 = x[i + 1] - y[i + 1]
        d2 = x[i + 2] - y[i + 2]
        d3 = x[i + 3] - y[i + 3]
        total += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
        if total >= enough:
            return total
        i += 4
    while i < n:
        d0 = x[i] - y[i]
        total += d0 * d0
        i += 1
    return total


@cython.final
cdef class Profiles:
    """What bounds need of k conformers, prepared once.

    Parameters
    ----------
    positions : (k, n, 3) float64 buffer, C-contiguous, Å
    classes : (n,) int32 buffer
        Class of each atom; atoms that some mapping exchanges must share one. Any integers.
    align : bool
        Whether the RMSD is that after a fit.

    Raises
    ------
    ValueError
        If the number of classes is not the number of atoms.

    Examples
    --------
    >>> from array import array
    >>> x = memoryview(array("d", [0, 0, 0, 2, 0, 0, 5, 0, 0, 0, 0, 0])).cast("B").cast("d", [2, 2, 3])
    >>> round(Profiles(x, array("i", [0, 0]), True).lower(0, 1), 6)
    1.5
    >>> round(Profiles(x, array("i", [0, 1]), False).lower(0, 1) ** 2, 6)
    14.5
    """

    cdef readonly Py_ssize_t n_conformers, n_atoms, n_classes
    cdef readonly bint align
    # Rows of `profile`: the sorted numbers, all classes one after another. Fixed frame: x, then y, then z. Aligned:
    # distances to the centroid; then distances to the class mean for the classes of more than one atom; then the
    # class means times √m as (x, y, z).
    cdef Py_ssize_t width, n_shared, means_at
    cdef double[::1] profile, squares, mean_squares
    cdef int[::1] members, start

    def __init__(self, const double[:, :, ::1] positions, const int[::1] classes, bint align):
        cdef Py_ssize_t i, c
        self.n_conformers, self.n_atoms, self.align = positions.shape[0], positions.shape[1], align
        if classes.shape[0] != self.n_atoms:
            raise ValueError(f"{classes.shape[0]} classes for {self.n_atoms} atoms, expected one for each")
        together = {}
        for i in range(self.n_atoms):
            together.setdefault(classes[i], []).append(i)
        self.n_classes = len(together)
        self.members = array("i", [atom for atoms in together.values() for atom in atoms])
        self.start = array("i", bytes(4 * (self.n_classes + 1)))
        for c, atoms in enumerate(together.values()):
            self.start[c + 1] = self.start[c] + <int>len(atoms)
        self.n_shared = sum(len(atoms) for atoms in together.values() if len(atoms) > 1)
        self.means_at = self.n_atoms + self.n_shared
        self.width = self.means_at + 3 * self.n_classes if align else 3 * self.n_atoms
        self.profile = array("d", bytes(8 * self.n_conformers * self.width))
        self.squares = array("d", bytes(8 * self.n_conformers))
        self.mean_squares = array("d", bytes(8 * self.n_conformers))
        with nogil:
            for i in range(self.n_conformers):
                if align:
                    self._radii(positions[i], i)
                else:
                    self._coordinates(positions[i], i)

    cdef void _coordinates(self, const double[:, ::1] x, Py_ssize_t row) noexcept nogil:
        cdef double *out = &self.profile[row * self.width]
        cdef Py_ssize_t c, i
        cdef int e
        for e in range(3):
            for i in range(self.n_atoms):
                out[i] = x[self.members[i], e]
                self.squares[row] += out[i] * out[i]
            for c in range(self.n_classes):
                if self.start[c + 1] - self.start[c] > 1:
                    qsort(out + self.start[c], self.start[c + 1] - self.start[c], sizeof(double), ascending)
            out += self.n_atoms

    cdef void _radii(self, const double[:, ::1] x, Py_ssize_t row) noexcept nogil:
        cdef double *out = &self.profile[row * self.width]
        cdef double *shared = out + self.n_atoms
        cdef double *mean = out + self.means_at
        cdef double centre[3]
        cdef double p[3]
        cdef double square, weight
        cdef Py_ssize_t c, i, size
        cdef int e
        for e in range(3):
            centre[e] = 0.0
        for i in range(self.n_atoms):
            for e in range(3):
                centre[e] += x[i, e] / self.n_atoms
        for c in range(self.n_classes):
            size = self.start[c + 1] - self.start[c]
            for e in range(3):
                p[e] = 0.0
            for i in range(self.start[c], self.start[c + 1]):
                square = 0.0
                for e in range(3):
                    p[e] += (x[self.members[i], e] - centre[e]) / size
                    square += (x[self.members[i], e] - centre[e]) ** 2
                out[i] = sqrt(square)
                self.squares[row] += square
            weight = sqrt(<double>size)
            for e in range(3):
                mean[3 * c + e] = weight * p[e]
                self.mean_squares[row] += size * p[e] * p[e]
            if size == 1:
                continue
            for i in range(size):
                square = 0.0
                for e in range(3):
                    square += (x[self.members[self.start[c] + i], e] - centre[e] - p[e]) ** 2
                shared[i] = sqrt(square)
            qsort(out + self.start[c], size, sizeof(double), ascending)
            qsort(shared, size, sizeof(double), ascending)
            shared += size

    cdef inline void _covariance(self, const double *x, const double *y, double *c) noexcept nogil:
        cdef Py_ssize_t i
        cdef int e
        for e in range(9):
            c[e] = 0.0
        for i in range(self.n_classes):
            add(x, y, c)
            x += 3
            y += 3

    cdef double _lower(self, Py_ssize_t i, Py_ssize_t j) noexcept nogil:
        """A bound of n·RMSD², Å²."""
        cdef double bound
        self._is_apart(i, j, INFINITY, &bound)
        return max(bound - SLACK * (self.squares[i] + self.squares[j]), 0.0)

    cdef bint _is_apart(self, Py_ssize_t i, Py_ssize_t j, double enough, double *bound) noexcept nogil:
        """Whether n·RMSD² is surely `enough` (Å²) or more. OUT bound: if not, about what is known to be less than it."""
        cdef const double *x = &self.profile[i * self.width]
        cdef const double *y = &self.profile[j * self.width]
        cdef double c[9]
        cdef double q[4]
        cdef double least, squares
        enough += SLACK * (self.squares[i] + self.squares[j])
        if not self.align:
            bound[0] = apart(x, y, 3 * self.n_atoms, enough)
            return bound[0] >= enough
        bound[0] = apart(x, y, self.n_atoms, enough)
        if bound[0] >= enough:
            return True
        if self.n_classes == 1:
            return False
        least = apart(x + self.n_atoms, y + self.n_atoms, self.n_shared, enough)
        if least >= enough:
            return True
        squares = self.mean_squares[i] + self.mean_squares[j]
        self._covariance(x + self.means_at, y + self.means_at, c)
        if not exceeds(c, (squares + least - enough) / 2):
            return True
        # The means may lie on a line. The largest root is double then, and Newton's method loses half of the digits:
        # good enough to tell which of two pairs is likely to be nearer, not for a bound.
        least += max(squares - 2 * (eigen(c, q) if enough == INFINITY else largest(c, squares / 2)), 0.0)
        bound[0] = max(bound[0], least)
        return False

    def lower(self, Py_ssize_t i, Py_ssize_t j):
        """A lower bound of the RMSD of conformers i and j, Å. Raises IndexError."""
        cdef double total
        if not (0 <= i < self.n_conformers and 0 <= j < self.n_conformers):
            raise IndexError(f"conformers {i} and {j} of {self.n_conformers}")
        with nogil:
            total = self._lower(i, j)
        return sqrt(total / self.n_atoms)

    def lower_row(self, Py_ssize_t i, double[::1] out):
        """OUT out (k,): a lower bound of the RMSD of conformer i and each one, Å. Raises IndexError, ValueError."""
        cdef Py_ssize_t j
        if not 0 <= i < self.n_conformers:
            raise IndexError(f"conformer {i} of {self.n_conformers}")
        if out.shape[0] != self.n_conformers:
            raise ValueError(f"out has {out.shape[0]} places for {self.n_conformers} conformers")
        with nogil:
            for j in range(self.n_conformers):
                out[j] = sqrt(self._lower(i, j) / self.n_atoms)

    def undecided(self, Py_ssize_t i, const Py_ssize_t[::1] others, double threshold, Py_ssize_t[::1] left):
        """Those of `others` that no bound keeps at `threshold` (Å) or farther from conformer i.

        OUT left[:count]: they, the one that is likely to be the nearest first. Returns count. Conformer numbers are not
        checked.
        """
        cdef double enough = threshold * threshold * self.n_atoms, bound, least = INFINITY
        cdef Py_ssize_t x, other, count = 0
        with nogil:
            for x in range(others.shape[0]):
                other = others[x]
                if self._is_apart(i, other, enough, &bound):
                    continue
                left[count] = other
                if bound < least:
                    least = bound
                    left[count] = left[0]
                    left[0] = other
                count += 1
        return count


def orbits(Py_ssize_t n_atoms, const int[::1] pair_i, const int[::1] pair_j):
    """(n_atoms,) int32 classes from the pairs (atom, image) of which mappings of a molecule onto itself are made.

    Two atoms share a class if a chain of pairs joins them; the class is named after its first atom.

    >>> from array import array
    >>> orbits(4, array("i", [0, 1, 1, 2, 2, 3]), array("i", [0, 1, 2, 1, 2, 3])).tolist()
    [0, 1, 1, 3]
    """
    classes = array("i", range(n_atoms))
    cdef int[::1] above = classes
    cdef Py_ssize_t x
    cdef int i, j
    with nogil:
        for x in range(pair_i.shape[0]):
            i = top(above, pair_i[x])
            j = top(above, pair_j[x])
            if i < j:
                above[j] = i
            else:
                above[i] = j
        for x in range(n_atoms):
            above[x] = top(above, <int>x)
    return classes


cdef inline int top(int[::1] above, int x) noexcept nogil:
    while above[x] != x:
        above[x] = above[above[x]]
        x = above[x]
    return x
