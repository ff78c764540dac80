# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled core: evaluation of a packed plan for pairs of conformers, in place and under rotation.

Everything that is done per pair lives here, without Python objects and without the GIL. Shapes are checked by `_api`.
Rotations act on b: the sum minimised is Σ |a_i − U b_π(i)|² over centred coordinates, and tr(U Cᵀ) with the 3 × 3
covariance C = Σ a_i b_π(i)ᵀ is maximised, which is the largest eigenvalue of Horn's 4 × 4 matrix K(C).
"""

import time
from array import array

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, cos, fabs, sin, sqrt
from libc.stdlib cimport free, malloc, realloc

from flashrmsd_cy._assign cimport Scratch, assign, assign_many
from flashrmsd_cy._cells cimport Cell, eighth, matrix_term, place, term, within
from flashrmsd_cy._horn cimport add, eigen, exceeds, largest, nuclear_bound, rotation_of, turn, two_eigen

cdef enum:
    TILE = 8                    # rows of a matrix that are filled together
    BLOCK_STEPS = 1_000         # nodes of the search over blocks before the search over rotations takes over
    PATIENCE = 200_000          # entries of plans that are passed, about, from one look at the clock to the next

cdef extern from *:
    """
    #define FETCH_NEXT(counter) __sync_fetch_and_add((counter), 1)
    """
    long long FETCH_NEXT(long long *counter) noexcept nogil


cdef double[::1] doubles(Py_ssize_t n):
    """Scratch, never empty: an empty buffer has no first element to point to."""
    return array("d", bytes(8 * max(n, 1)))


cdef double[:, ::1] rows(Py_ssize_t n, Py_ssize_t width):
    return memoryview(array("d", bytes(8 * max(n, 1) * width))).cast("B").cast("d", (max(n, 1), width))


cdef int[::1] ints(Py_ssize_t n):
    return array("i", bytes(4 * max(n, 1)))


cdef long long[::1] longs(Py_ssize_t n):
    return array("q", bytes(8 * max(n, 1)))


cdef void mean_over(const double *x, Py_ssize_t n_sets, const int[::1] start, const int[::1] atoms,
                    double[:, ::1] out) noexcept nogil:
    """OUT out (sets, 3): mean position of the atoms of each set."""
    cdef Py_ssize_t s, i
    cdef int e
    for s in range(n_sets):
        for e in range(3):
            out[s, e] = 0.0
        for i in range(start[s], start[s + 1]):
            for e in range(3):
                out[s, e] += x[3 * atoms[i] + e]
        for e in range(3):
            out[s, e] /= start[s + 1] - start[s]


include "_rotations.pxi"


@cython.final
cdef class Search:
    """One plan with the working memory of one thread; see `_pack.Packed` and `_pack.Blocks` for the arrays."""

    cdef object plan, blocks
    # IN: the plan
    cdef Py_ssize_t n, n_nodes, n_branches, n_groups
    cdef const int[::1] node_start, pair_start, group_start, pair_i, pair_j, group_size, child_start, child
    # the distinct pairs of atoms in it
    cdef Py_ssize_t n_distinct
    cdef int[::1] pair_of, distinct_i, distinct_j
    # IN: the blocks, where they can be listed
    cdef bint has_blocks
    cdef Py_ssize_t n_blocks, n_fixed
    cdef const int[::1] fixed_i, fixed_j, block_start, block_atom, n_maps, image_start, images
    cdef int[::1] cov_start
    # scratch of the pass over the plan
    cdef double[::1] value, square, cost, hu, hv, slack
    cdef int[::1] chosen, column_start, column, todo, match, way
    cdef unsigned char[::1] used
    cdef Scratch work
    # scratch of the fit: a centred pair, covariances of maps of blocks
    cdef double[::1] own_a, own_b, spread, rest
    cdef double[:, ::1] partial, cov
    cdef int[::1] best_map, order, choice
    # state of one fit
    cdef Fit pair
    cdef Watch watch
    cdef Rotations rotations    # made when a pair first needs it
    cdef Py_ssize_t often             # pairs from one look at the clock to the next
    cdef double within_square         # Σ below which a pair counts as near; −1: not asked
    cdef readonly double nearest      # RMSD (Å) of a mapping of the pair that first_near found, below its threshold
    cdef long long block_limit
    cdef bint block_stopped

    def __init__(self, plan, blocks=None):
        self.plan, self.blocks = plan, blocks
        self.n = plan.n_atoms
        self.node_start, self.pair_start, self.group_start = plan.node_start, plan.pair_start, plan.group_start
        self.pair_i, self.pair_j = plan.pair_i, plan.pair_j
        self.group_size, self.child_start, self.child = plan.group_size, plan.child_start, plan.child
        self.n_nodes, self.n_branches = len(plan.node_start) - 1, len(plan.pair_start) - 1
        self.n_groups = len(plan.group_size)
        distinct = {}
        self.pair_of = array("i", [distinct.setdefault(pair, len(distinct)) for pair in zip(plan.pair_i, plan.pair_j)])
        self.n_distinct = len(distinct)
        self.distinct_i = array("i", [i for i, _ in distinct])
        self.distinct_j = array("i", [j for _, j in distinct])
        self.square = doubles(self.n_distinct)
        widest = max(plan.group_size, default=0) + 1
        n_columns = sum(plan.group_size)
        self.value, self.chosen = doubles(self.n_nodes), ints(self.n_nodes)
        self.cost = doubles(widest * widest)
        self.hu, self.hv, self.slack = doubles(widest), doubles(widest), doubles(widest)
        self.match, self.way = ints(widest), ints(widest)
        self.used = bytearray(widest)
        self.work.hu, self.work.hv, self.work.slack = &self.hu[0], &self.hv[0], &self.slack[0]
        self.work.match, self.work.way, self.work.used = &self.match[0], &self.way[0], &self.used[0]
        self.column_start, self.column = ints(self.n_groups + 1), ints(n_columns)
        for group, size in enumerate(plan.group_size):
            self.column_start[group + 1] = self.column_start[group] + size
        self.todo = ints(self.n + self.n_nodes + 1)
        self.best_map = ints(self.n)
        self.own_a, self.own_b = doubles(3 * self.n), doubles(3 * self.n)
        self.watch = Watch()
        self.often = max(1, PATIENCE // (self.n_distinct + self.n_branches + len(plan.child) + 1))
        self.rotations = None
        self._take_blocks(blocks)

    @property
    def steps(self):
        """Of the last fit."""
        return self.pair.steps

    def copy(self):
        """The same plan with working memory of its own, for another thread."""
        return Search(self.plan, self.blocks)

    def _take_blocks(self, blocks):
        self.has_blocks = blocks is not None
        if blocks is None:
            return
        self.fixed_i, self.fixed_j = blocks.fixed_i, blocks.fixed_j
        self.block_start, self.block_atom = blocks.atom_start, blocks.atoms
        self.n_maps, self.image_start, self.images = blocks.n_maps, blocks.image_start, blocks.images
        self.n_blocks, self.n_fixed = len(blocks.n_maps), len(blocks.fixed_i)
        self.cov_start = ints(self.n_blocks + 1)
        for block, n_maps in enumerate(blocks.n_maps):
            self.cov_start[block + 1] = self.cov_start[block] + n_maps
        self.cov = rows(sum(blocks.n_maps), 9)
        self.partial = rows(self.n_blocks + 1, 9)
        self.spread, self.rest = doubles(self.n_blocks), doubles(self.n_blocks + 1)
        self.order, self.choice = ints(self.n_blocks), ints(self.n_blocks)

    # -- the pass over the plan ---------------------------------------------------------------------------------------

    cdef double _pass(self) noexcept nogil:
        """Least total cost over all isomorphisms, from the squares of all pairs of atoms."""
        cdef Py_ssize_t node, branch, x
        cdef double total, best = INFINITY
        for node in range(self.n_nodes):
            best = INFINITY
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                total = 0.0
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    total += self.square[self.pair_of[x]]
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    total += self._assign(x)
                if total < best or best == INFINITY:
                    best = total
                    self.chosen[node] = <int>branch
            self.value[node] = best
        return best

    cdef inline double _assign(self, Py_ssize_t group) noexcept nogil:
        """Cheapest assignment of the pieces of one group; the chosen column of each row is kept."""
        cdef int k = self.group_size[group], x
        cdef Py_ssize_t first = self.child_start[group]
        cdef int *out = &self.column[self.column_start[group]]
        if k == 1:
            out[0] = 0
            return self.value[self.child[first]]
        for x in range(k * k):
            self.cost[x] = self.value[self.child[first + x]]
        return assign(k, &self.cost[0], out, &self.work)

    cdef void _trace(self, int[::1] mapping) noexcept nogil:
        """OUT mapping (n,): the isomorphism behind the value of the last pass."""
        cdef Py_ssize_t top = 1, branch, x, r, k
        self.todo[0] = <int>(self.n_nodes - 1)
        while top > 0:
            top -= 1
            branch = self.chosen[self.todo[top]]
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                mapping[self.pair_i[x]] = self.pair_j[x]
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                k = self.group_size[x]
                for r in range(k):
                    self.todo[top] = self.child[self.child_start[x] + r * k + self.column[self.column_start[x] + r]]
                    top += 1

    # -- fixed frame --------------------------------------------------------------------------------------------------

    cdef double _in_place(self, const double *a, const double *b) noexcept nogil:
        cdef Py_ssize_t x
        cdef const double *p
        cdef const double *q
        cdef double dx, dy, dz
        for x in range(self.n_distinct):
            p = a + 3 * self.distinct_i[x]
            q = b + 3 * self.distinct_j[x]
            dx = p[0] - q[0]
            dy = p[1] - q[1]
            dz = p[2] - q[2]
            self.square[x] = dx * dx + dy * dy + dz * dz
        return self._pass()

    def in_place(self, const double[:, ::1] a, const double[:, ::1] b, int[::1] mapping):
        """Least Σ |a_i − b_π(i)|² in Å²; OUT mapping (n,)."""
        cdef double total
        with nogil:
            total = self._in_place(&a[0, 0], &b[0, 0])
            self._trace(mapping)
        return total

    # -- fit: search over independent blocks --------------------------------------------------------------------------

    cdef void _block_covariances(self) noexcept nogil:
        """Covariance of each map of each block; its mean over the maps goes to `partial[0]`, the rest stays in `cov`."""
        cdef Py_ssize_t block, s, x, size, first, y
        cdef double mean[9]
        cdef double top, bound
        for x in range(9):
            mean[x] = 0.0
        for x in range(self.n_fixed):
            add(self.pair.a + 3 * self.fixed_i[x], self.pair.b + 3 * self.fixed_j[x], mean)
        for x in range(9):
            self.partial[0, x] = mean[x]
        for block in range(self.n_blocks):
            first = self.block_start[block]
            size = self.block_start[block + 1] - first
            for y in range(9):
                mean[y] = 0.0
            for s in range(self.n_maps[block]):
                for y in range(9):
                    self.cov[self.cov_start[block] + s, y] = 0.0
                for x in range(size):
                    add(self.pair.a + 3 * self.block_atom[first + x],
                        self.pair.b + 3 * self.images[self.image_start[block] + s * size + x],
                        &self.cov[self.cov_start[block] + s, 0])
                for y in range(9):
                    mean[y] += self.cov[self.cov_start[block] + s, y] / self.n_maps[block]
            for y in range(9):
                self.partial[0, y] += mean[y]
            # With one block there is nothing to bound: all its maps are tried.
            top = 0.0 if self.n_blocks > 1 else INFINITY
            for s in range(self.n_maps[block]):
                for y in range(9):
                    self.cov[self.cov_start[block] + s, y] -= mean[y]
                if self.n_blocks > 1:
                    bound = nuclear_bound(&self.cov[self.cov_start[block] + s, 0])
                    if bound > top:
                        top = bound
            self.spread[block] = top

    cdef void _order_blocks(self) noexcept nogil:
        """Largest spread first; rest[d] bounds what the blocks from the d-th on can still add to the eigenvalue."""
        cdef Py_ssize_t i, j
        cdef int x
        for i in range(self.n_blocks):
            x = <int>i
            j = i
            while j > 0 and self.spread[self.order[j - 1]] < self.spread[x]:
                self.order[j] = self.order[j - 1]
                j -= 1
            self.order[j] = x
        self.rest[self.n_blocks] = 0.0
        for i in range(self.n_blocks - 1, -1, -1):
            self.rest[i] = self.rest[i + 1] + self.spread[self.order[i]]

    cdef void _descend(self, Py_ssize_t depth) noexcept nogil:
        cdef Py_ssize_t s, y, block
        cdef double q[4]
        cdef double value
        if not exceeds(&self.partial[depth, 0], bar(&self.pair) - self.rest[depth] + 1e-13 * self.pair.ceiling):
            return
        if depth == self.n_blocks:
            value = largest(&self.partial[depth, 0], self.pair.ceiling * (1 + 1e-12))
            if value > self.pair.best:
                self._collect(value)
            return
        block = self.order[depth]
        for s in range(self.n_maps[block]):
            self.pair.steps += 1
            if self.pair.steps > self.block_limit:
                self.block_stopped = True
            if self.pair.steps % 4096 == 0:
                self.watch.look(&self.pair)
            if self.pair.stopped or self.block_stopped or self.pair.enough:
                return
            self.choice[block] = <int>s
            for y in range(9):
                self.partial[depth + 1, y] = self.partial[depth, y] + self.cov[self.cov_start[block] + s, y]
            self._descend(depth + 1)

    cdef void _collect(self, double value) noexcept nogil:
        """The chosen maps of all blocks become the best map."""
        cdef Py_ssize_t block, x, size, first
        self.pair.best = value
        self.pair.enough = value >= self.pair.goal
        for x in range(self.n_fixed):
            self.best_map[self.fixed_i[x]] = self.fixed_j[x]
        for block in range(self.n_blocks):
            first = self.block_start[block]
            size = self.block_start[block + 1] - first
            for x in range(size):
                self.best_map[self.block_atom[first + x]] = (
                    self.images[self.image_start[block] + self.choice[block] * size + x])

    # -- fit ----------------------------------------------------------------------------------------------------------

    cdef double _centre(self, const double *x, double *out, double *middle) noexcept nogil:
        """OUT out (n, 3) relative to the centroid, OUT middle (3,); returns the sum of squares."""
        cdef Py_ssize_t i
        cdef int e
        cdef double total = 0.0
        for e in range(3):
            middle[e] = 0.0
        for i in range(self.n):
            for e in range(3):
                middle[e] += x[3 * i + e]
        for e in range(3):
            middle[e] /= self.n
        for i in range(self.n):
            for e in range(3):
                out[3 * i + e] = x[3 * i + e] - middle[e]
                total += out[3 * i + e] * out[3 * i + e]
        return total

    cdef double _fit(self, const double *a, const double *b, double squares, double *q) noexcept nogil:
        """Least Σ |a_i − U b_π(i)|² in Å² of centred a and b, whose squares add up to `squares`.

        OUT best_map; q (4,) the rotation, unless it is NULL.
        """
        cdef double c[9]
        cdef double near[4]
        cdef double total
        cdef Py_ssize_t i
        self.pair.a = a
        self.pair.b = b
        self.pair.best_map = &self.best_map[0]
        self.pair.ceiling = self.pair.upper = squares / 2
        self.pair.goal = INFINITY if self.within_square < 0 else self.pair.ceiling - self.within_square / 2
        self.pair.best = -INFINITY
        self.pair.steps = 0
        self.pair.stopped = self.pair.enough = self.block_stopped = False
        if self.has_blocks and self.n_blocks == 0:
            for i in range(9):
                c[i] = 0.0
            for i in range(self.n_fixed):
                self.best_map[self.fixed_i[i]] = self.fixed_j[i]
                add(a + 3 * self.fixed_i[i], b + 3 * self.fixed_j[i], c)
            self.pair.best = largest(c, self.pair.ceiling)
        else:
            self._search_maps()
        total = squares - 2 * self.pair.best
        if q != NULL or total <= 1e-4 * squares:
            for i in range(9):
                c[i] = 0.0
            for i in range(self.n):
                add(a + 3 * i, b + 3 * self.best_map[i], c)
            eigen(c, near)
            # The difference of large numbers loses its digits as the fit gets better: sum the residuals instead.
            total = self._residual(near)
            if q != NULL:
                for i in range(4):
                    q[i] = near[i]
        return total

    cdef void _search_maps(self) noexcept nogil:
        if self.has_blocks:
            self._block_covariances()
            self._order_blocks()
            if self.n_blocks > 8 or self.cov.shape[0] > 200:
                self._climb()
            self._descend(0)
            if self.pair.enough or self.pair.stopped or not self.block_stopped:
                return
        self._climb()
        if self.pair.ceiling > 0.0:     # else all atoms are at one point
            self.rotations.search()

    cdef void _climb(self) noexcept nogil:
        """A good mapping to begin with."""
        cdef double q[4]
        if self.rotations is None:
            with gil:
                self.rotations = Rotations(self.plan, self.watch)
        self.rotations.start(&self.pair)
        if self.has_blocks:
            eigen(&self.partial[0, 0], q)
        else:
            q[0] = 1.0
            q[1] = q[2] = q[3] = 0.0
        self.rotations.climb(q)

    cdef double _residual(self, const double *q) noexcept nogil:
        cdef double u[9]
        cdef double image[3]
        cdef Py_ssize_t i
        cdef int e
        cdef double d, total = 0.0
        rotation_of(q, u)
        for i in range(self.n):
            turn(u, self.pair.b + 3 * self.best_map[i], image)
            for e in range(3):
                d = self.pair.a[3 * i + e] - image[e]
                total += d * d
        return total

    def _limits(self, step_limit, deadline, long long[::1] counter=None):
        self.pair.step_limit = (1 << 62) if step_limit is None else step_limit
        self.block_limit = min(self.pair.step_limit, BLOCK_STEPS)
        self.pair.deadline = INFINITY if deadline is None else deadline
        self.within_square = -1.0
        self.watch.pending = None
        self.watch.counter = NULL if counter is None else &counter[0]

    def fit(self, const double[:, ::1] a, const double[:, ::1] b, int[::1] mapping, double[:, ::1] rotation,
            double[::1] translation, step_limit=None, deadline=None):
        """Least Σ |a_i − (U b_π(i) + t)|² in Å² over maps π, rotations U and translations t.

        OUT mapping (n,), rotation (3, 3), translation (3,). Returns (sum, lower bound of the sum, whether proved).
        """
        cdef double q[4]
        cdef double u[9]
        cdef double centre_a[3]
        cdef double centre_b[3]
        cdef double total, squares
        cdef int x, y
        self._limits(step_limit, deadline)
        with nogil:
            squares = self._centre(&a[0, 0], &self.own_a[0], centre_a) + self._centre(&b[0, 0], &self.own_b[0], centre_b)
            total = self._fit(&self.own_a[0], &self.own_b[0], squares, q)
            rotation_of(q, u)
            for x in range(3):
                translation[x] = centre_a[x]
                for y in range(3):
                    rotation[x, y] = u[3 * x + y]
                    translation[x] -= u[3 * x + y] * centre_b[y]
            for x in range(self.n):
                mapping[x] = self.best_map[x]
        if self.watch.pending is not None:
            raise self.watch.pending
        lower = max(0.0, squares - 2 * self.pair.upper) if self.pair.stopped else total
        return total, min(lower, total), not self.pair.stopped

    # -- many pairs ---------------------------------------------------------------------------------------------------

    cdef double *_centred(self, const double *x, Py_ssize_t k) except NULL:
        """k conformers about their centroids, (k, n, 3), and behind them their k sums of squares; the caller frees."""
        cdef double *out = <double *>malloc((3 * self.n + 1) * max(k, 1) * sizeof(double))
        cdef double middle[3]
        cdef Py_ssize_t i
        if out == NULL:
            raise MemoryError(f"{k} conformers of {self.n} atoms")
        with nogil:
            for i in range(k):
                out[3 * self.n * k + i] = self._centre(x + 3 * self.n * i, out + 3 * self.n * i, middle)
        return out

    cdef inline double _one(self, const double *a, const double *b, double squares, bint align) noexcept nogil:
        return sqrt((self._fit(a, b, squares, NULL) if align else self._in_place(a, b)) / self.n)

    def matrix_rows(self, const double[:, :, ::1] positions, double[:, ::1] out, long long[::1] counter, bint align,
                    step_limit=None, deadline=None):
        """RMSD (Å) of all pairs of k conformers, shared with other threads: each calls this on a search of its own.

        OUT out (k, k): symmetric; the diagonal is left alone. IN counter (1,): the next tile of rows, 0 at first; all
        threads share it, and a large number there stops them, soon also within a pair. Returns the first pair that a
        limit stopped, or None.
        """
        cdef Py_ssize_t k = positions.shape[0], step = 3 * self.n, row, other, first, last, n_tiles = (k + TILE - 1) // TILE
        cdef const double *x = &positions[0, 0, 0] if k > 0 else NULL
        cdef double *centred = NULL
        cdef const double *squares = NULL
        cdef double d
        cdef long long tile, pairs = 0
        self._limits(step_limit, deadline, counter)
        if k < 2:
            return None
        if align:
            centred = self._centred(x, k)
            x = centred
            squares = centred + step * k
        row = other = -1
        with nogil:
            self.pair.stopped = False
            while not self.pair.stopped:
                tile = FETCH_NEXT(&counter[0])
                if tile >= n_tiles:
                    break
                # The longest rows first, so that no thread is left with a long one at the end.
                last = k - tile * TILE
                first = last - TILE if last > TILE else 0
                row = last - 1
                other = 0
                self.watch.look(&self.pair)
                if self.pair.stopped:       # now: the next pair begins with a clean slate
                    break
                for other in range(last - 1):
                    for row in range(max(first, other + 1), last):
                        d = self._one(x + step * row, x + step * other,
                                      squares[row] + squares[other] if align else 0.0, align)
                        if self.pair.stopped:
                            break
                        out[row, other] = out[other, row] = d
                        pairs += 1
                        if pairs % self.often == 0:
                            self.watch.look(&self.pair)
                            if self.pair.stopped:
                                break
                    if self.pair.stopped:
                        break
        free(centred)
        if self.watch.pending is not None:
            raise self.watch.pending
        return (row, other) if self.pair.stopped else None

    def table_rows(self, const double[:, :, ::1] a, const double[:, :, ::1] b, double[:, ::1] out,
                   long long[::1] counter, bint align, step_limit=None, deadline=None):
        """RMSD (Å) of each of k conformers to each of m others; OUT out (k, m), otherwise as `matrix_rows`."""
        cdef Py_ssize_t k = a.shape[0], m = b.shape[0], step = 3 * self.n, other = -1
        cdef const double *x = NULL
        cdef const double *y = NULL
        cdef double *centred_a = NULL
        cdef double *centred_b = NULL
        cdef double d
        cdef long long row = -1, pairs = 0
        self._limits(step_limit, deadline, counter)
        if k == 0 or m == 0:
            return None
        x = &a[0, 0, 0]
        y = &b[0, 0, 0]
        try:
            if align:
                centred_a = self._centred(x, k)
                centred_b = self._centred(y, m)
                x = centred_a
                y = centred_b
            with nogil:
                self.pair.stopped = False
                while not self.pair.stopped:
                    row = FETCH_NEXT(&counter[0])
                    if row >= k:
                        break
                    other = 0
                    self.watch.look(&self.pair)
                    if self.pair.stopped:
                        break
                    for other in range(m):
                        d = self._one(x + step * row, y + step * other,
                                      x[step * k + row] + y[step * m + other] if align else 0.0, align)
                        if self.pair.stopped:
                            break
                        out[row, other] = d
                        pairs += 1
                        if pairs % self.often == 0:
                            self.watch.look(&self.pair)
                            if self.pair.stopped:
                                break
        finally:
            free(centred_a)
            free(centred_b)
        if self.watch.pending is not None:
            raise self.watch.pending
        return (row, other) if self.pair.stopped else None

    def first_near(self, const double[:, :, ::1] positions, const Py_ssize_t[::1] kept, Py_ssize_t row,
                   double threshold, bint align, deadline=None, long long[::1] counter=None):
        """The first entry of `kept` whose conformer is nearer than `threshold` (Å) to conformer `row`.

        Returns (that conformer or -1, whether every comparison was finished). The search of a pair ends as soon as
        the question is settled, long before the RMSD itself is known.
        """
        cdef const double *a = &positions[row, 0, 0]
        cdef const double *b
        cdef double middle[3]
        cdef double total, squares_a = 0.0, squares_b
        cdef Py_ssize_t x, other, found = -1
        self._limits(None, deadline, counter)
        self.within_square = threshold * threshold * self.n
        with nogil:
            self.pair.stopped = False
            if align:
                squares_a = self._centre(a, &self.own_a[0], middle)
            for x in range(kept.shape[0]):
                other = kept[x]
                b = &positions[other, 0, 0]
                if align:
                    squares_b = self._centre(b, &self.own_b[0], middle)
                    total = self._fit(&self.own_a[0], &self.own_b[0], squares_a + squares_b, NULL)
                else:
                    total = self._in_place(a, b)
                # The root is compared, as whoever reads it from a matrix would.
                self.nearest = sqrt(max(total, 0.0) / self.n)
                if self.nearest < threshold:
                    found = other
                    break
                if (x + 1) % self.often == 0:
                    self.watch.look(&self.pair)
                if self.pair.stopped:
                    break
        if self.watch.pending is not None:
            raise self.watch.pending
        return found, found >= 0 or not self.pair.stopped
