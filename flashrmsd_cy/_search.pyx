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

from flashrmsd_cy._cells cimport Cell, eighth, matrix_term, quaternion, term, within
from flashrmsd_cy._horn cimport eigen, exceeds, largest, nuclear_bound, rotation_of

cdef enum:
    TILE = 8                    # rows of a matrix that are filled together
    BLOCK_STEPS = 20_000        # nodes of the search over blocks before the search over rotations takes over
    MOST_LISTED = 100
cdef double WIDE = 0.75         # cells with a larger radius are split without asking what could be gained in them

cdef extern from *:
    """
    #define FETCH_NEXT(counter) __sync_fetch_and_add((counter), 1)
    """
    long long FETCH_NEXT(long long *counter) noexcept nogil


cdef double[::1] doubles(Py_ssize_t n):
    """Scratch, never empty: an empty buffer has no first element to point to."""
    return array("d", bytes(8 * max(n, 1)))


cdef int[::1] ints(Py_ssize_t n):
    return array("i", bytes(4 * max(n, 1)))


cdef double[:, ::1] rows(Py_ssize_t n, Py_ssize_t width):
    return memoryview(array("d", bytes(8 * max(n, 1) * width))).cast("B").cast("d", (max(n, 1), width))


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


cdef inline void turn(const double *u, const double *x, double *out) noexcept nogil:
    """OUT out = u x."""
    out[0] = u[0] * x[0] + u[1] * x[1] + u[2] * x[2]
    out[1] = u[3] * x[0] + u[4] * x[1] + u[5] * x[2]
    out[2] = u[6] * x[0] + u[7] * x[1] + u[8] * x[2]


cdef inline void add(const double *a, const double *b, double *c) noexcept nogil:
    """c (3, 3) += a bᵀ."""
    c[0] += a[0] * b[0]
    c[1] += a[0] * b[1]
    c[2] += a[0] * b[2]
    c[3] += a[1] * b[0]
    c[4] += a[1] * b[1]
    c[5] += a[1] * b[2]
    c[6] += a[2] * b[0]
    c[7] += a[2] * b[1]
    c[8] += a[2] * b[2]


@cython.final
cdef class Search:
    """One plan with the working memory of one thread; see `_pack.Packed` and `_pack.Blocks` for the arrays."""

    cdef object plan, blocks
    # IN: the plan
    cdef Py_ssize_t n, n_nodes, n_branches, n_groups, n_sets_a, n_sets_b
    cdef const int[::1] node_start, pair_start, group_start, pair_i, pair_j, group_size, child_start, child
    cdef const int[::1] node_a, node_b, group_a, group_b, set_a_start, set_a, set_b_start, set_b
    # the distinct pairs of atoms in it
    cdef Py_ssize_t n_distinct
    cdef int[::1] pair_of, distinct_i, distinct_j
    # IN: the blocks, where they can be listed
    cdef bint has_blocks
    cdef Py_ssize_t n_blocks, n_fixed
    cdef const int[::1] fixed_i, fixed_j, block_start, block_atom, n_maps, image_start, images
    cdef int[::1] cov_start
    # scratch of the pass over the plan
    cdef double[::1] value, square, branch_cost, branch_value, child_cost, cost, hu, hv, slack
    cdef int[::1] chosen, column_start, column, todo, match, way
    cdef unsigned char[::1] used
    # scratch of the fit: centred a and b (of this pair, in `own_a`, `own_b` or a set of conformers), means over sets of
    # atoms; covariances of each branch, absolute and about the means of its node
    cdef const double *a
    cdef const double *b
    cdef double[::1] own_a, own_b
    cdef double[:, ::1] image, mean_a, mean_b, turned_b, star_mean, partial, cov, branch_cov, branch_rel, lead_cov
    cdef double[::1] spread, rest
    cdef int[::1] star, best_map, order, choice
    cdef bint branches_ready
    # branches whose atoms of a are the same share a leader, and with it the covariance of their image under `star`
    cdef bint has_leaders
    cdef Py_ssize_t n_leaders
    cdef int[::1] leader_of, leader_branch, leader_set
    # state of one fit
    cdef double best, ceiling, upper, tolerance, deadline
    cdef double within_square, goal   # Σ below which a pair counts as near (−1: not asked), and the Σ a·U b it needs
    cdef readonly long long steps     # of the last pair
    cdef readonly double nearest      # RMSD (Å) of a mapping of the pair that first_near found, below its threshold
    cdef long long step_limit, block_limit
    cdef bint stopped, block_stopped, enough
    cdef object pending
    cdef Cell *cells
    cdef Py_ssize_t n_cells, capacity
    # maps of one cell, listed: open subproblems as linked lists, costs of each assignment above the cheapest
    cdef double[::1] above
    cdef int[::1] open_item, open_next, trial
    cdef long long[::1] above_of
    cdef unsigned char[::1] taken
    cdef int open_top, listed, listing_steps
    cdef long long cell_number

    def __cinit__(self):
        self.cells = NULL
        self.capacity = 0

    def __dealloc__(self):
        free(self.cells)

    def __init__(self, plan, blocks=None):
        self.plan, self.blocks = plan, blocks
        self.n = plan.n_atoms
        self.node_start, self.pair_start, self.group_start = plan.node_start, plan.pair_start, plan.group_start
        self.pair_i, self.pair_j = plan.pair_i, plan.pair_j
        self.group_size, self.child_start, self.child = plan.group_size, plan.child_start, plan.child
        self.node_a, self.node_b, self.group_a, self.group_b = plan.node_a, plan.node_b, plan.group_a, plan.group_b
        self.set_a_start, self.set_a = plan.set_a_start, plan.set_a
        self.set_b_start, self.set_b = plan.set_b_start, plan.set_b
        self.n_nodes, self.n_branches = len(plan.node_start) - 1, len(plan.pair_start) - 1
        self.n_groups = len(plan.group_size)
        self.n_sets_a, self.n_sets_b = len(plan.set_a_start) - 1, len(plan.set_b_start) - 1
        distinct = {}
        self.pair_of = array("i", [distinct.setdefault(pair, len(distinct)) for pair in zip(plan.pair_i, plan.pair_j)])
        self.n_distinct = len(distinct)
        self.distinct_i = array("i", [i for i, _ in distinct])
        self.distinct_j = array("i", [j for _, j in distinct])
        self.square = doubles(self.n_distinct)
        widest = max(plan.group_size, default=0) + 1
        n_columns = sum(plan.group_size)
        self.value, self.chosen = doubles(self.n_nodes), ints(self.n_nodes)
        self.branch_cost, self.branch_value = doubles(self.n_branches), doubles(self.n_branches)
        self.child_cost = doubles(len(plan.child))
        self.cost = doubles(widest * widest)
        self.hu, self.hv, self.slack = doubles(widest), doubles(widest), doubles(widest)
        self.match, self.way = ints(widest), ints(widest)
        self.used = bytearray(widest)
        self.column_start, self.column = ints(self.n_groups + 1), ints(n_columns)
        for group, size in enumerate(plan.group_size):
            self.column_start[group + 1] = self.column_start[group] + size
        self.todo = ints(self.n + self.n_nodes + 1)
        self.star, self.best_map = ints(self.n), ints(self.n)
        self.own_a, self.own_b = doubles(3 * self.n), doubles(3 * self.n)
        self.has_leaders = False
        self._take_blocks(blocks)

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

    def _make_room(self):
        """Working memory of the search over rotations, made when the first pair needs it."""
        leaders = {}
        self.leader_of = ints(self.n_branches)
        branch = 0
        for node in range(self.n_nodes):
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                atoms = tuple(self.pair_i[self.pair_start[branch]:self.pair_start[branch + 1]])
                groups = tuple(self.group_a[self.group_start[branch]:self.group_start[branch + 1]])
                key = (self.node_a[node], atoms, groups)
                if key not in leaders:
                    leaders[key] = (len(leaders), branch)
                self.leader_of[branch] = leaders[key][0]
        self.n_leaders = len(leaders)
        self.leader_branch = array("i", [branch for _, branch in leaders.values()])
        self.leader_set = array("i", [node for node, *_ in leaders])
        self.lead_cov = rows(self.n_leaders, 9)
        self.branch_cov, self.branch_rel = rows(self.n_branches, 9), rows(self.n_branches, 9)
        self.image = rows(self.n, 3)
        self.mean_a, self.star_mean = rows(self.n_sets_a, 3), rows(self.n_sets_a, 3)
        self.mean_b, self.turned_b = rows(self.n_sets_b, 3), rows(self.n_sets_b, 3)
        size = 4 * (self.n + self.n_nodes) + 64
        self.open_item, self.open_next, self.trial = ints(size), ints(size), ints(self.n)
        self.above = doubles(len(self.plan.child))
        self.above_of = array("q", bytes(8 * max(self.n_groups, 1)))
        self.taken = bytearray(max(sum(self.plan.group_size), 1))
        self.cell_number = 0
        self.has_leaders = True

    # -- the pass over the plan ---------------------------------------------------------------------------------------

    cdef double _pass(self, bint relative) noexcept nogil:
        """Least total cost over all isomorphisms, from those of branches (and, if `relative`, of groups and pieces)."""
        cdef Py_ssize_t node, branch, x
        cdef double total, best = INFINITY
        for node in range(self.n_nodes):
            best = INFINITY
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                total = self.branch_cost[branch]
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    total += self._assign(x, relative)
                self.branch_value[branch] = total
                if total < best or best == INFINITY:
                    best = total
                    self.chosen[node] = <int>branch
            self.value[node] = best
        return best

    cdef inline double _assign(self, Py_ssize_t group, bint relative) noexcept nogil:
        """Cheapest assignment of the pieces of one group; the chosen column of each row is kept."""
        cdef int k = self.group_size[group], x
        cdef Py_ssize_t first = self.child_start[group], out = self.column_start[group]
        cdef double straight, crossed
        if k == 1:
            self.column[out] = 0
            return self.value[self.child[first]] + (self.child_cost[first] if relative else 0.0)
        for x in range(k * k):
            self.cost[x] = self.value[self.child[first + x]] + (self.child_cost[first + x] if relative else 0.0)
        if k == 2:
            straight = self.cost[0] + self.cost[3]
            crossed = self.cost[1] + self.cost[2]
            self.column[out] = crossed < straight
            self.column[out + 1] = 1 - self.column[out]
            return crossed if crossed < straight else straight
        return self._assign_three(out) if k == 3 else self._assign_many(k, out)

    cdef double _assign_three(self, Py_ssize_t out) noexcept nogil:
        cdef double best = INFINITY, total
        cdef int x, y, z
        for x in range(3):
            for y in range(3):
                if x != y:
                    z = 3 - x - y
                    total = self.cost[x] + self.cost[3 + y] + self.cost[6 + z]
                    if total < best:
                        best = total
                        self.column[out] = x
                        self.column[out + 1] = y
                        self.column[out + 2] = z
        return best

    cdef double _assign_many(self, int k, Py_ssize_t out) noexcept nogil:
        """Shortest augmenting paths with potentials (Kuhn–Munkres in O(k³)); column 0 of `match` is a helper."""
        cdef int row, column, here, there, mate
        cdef double delta, reduced, total = 0.0
        for column in range(k + 1):
            self.hu[column] = self.hv[column] = 0.0
            self.match[column] = 0
        for row in range(1, k + 1):
            self.match[0] = row
            here = 0
            for column in range(k + 1):
                self.slack[column] = INFINITY
                self.used[column] = 0
            while True:
                self.used[here] = 1
                mate = self.match[here]
                delta = INFINITY
                there = 0
                for column in range(1, k + 1):
                    if self.used[column]:
                        continue
                    reduced = self.cost[(mate - 1) * k + column - 1] - self.hu[mate] - self.hv[column]
                    if reduced < self.slack[column]:
                        self.slack[column] = reduced
                        self.way[column] = here
                    if self.slack[column] < delta:
                        delta = self.slack[column]
                        there = column
                for column in range(k + 1):
                    if self.used[column]:
                        self.hu[self.match[column]] += delta
                        self.hv[column] -= delta
                    else:
                        self.slack[column] -= delta
                here = there
                if self.match[here] == 0:
                    break
            while here != 0:
                there = self.way[here]
                self.match[here] = self.match[there]
                here = there
        for column in range(1, k + 1):
            row = self.match[column] - 1
            self.column[out + row] = column - 1
            total += self.cost[row * k + column - 1]
        return total

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
        cdef Py_ssize_t x, branch
        cdef const double *p
        cdef const double *q
        cdef double dx, dy, dz, total
        for x in range(self.n_distinct):
            p = a + 3 * self.distinct_i[x]
            q = b + 3 * self.distinct_j[x]
            dx = p[0] - q[0]
            dy = p[1] - q[1]
            dz = p[2] - q[2]
            self.square[x] = dx * dx + dy * dy + dz * dz
        for branch in range(self.n_branches):
            total = 0.0
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                total += self.square[self.pair_of[x]]
            self.branch_cost[branch] = total
        return self._pass(False)

    def in_place(self, const double[:, ::1] a, const double[:, ::1] b, int[::1] mapping):
        """Least Σ |a_i − b_π(i)|² in Å²; OUT mapping (n,)."""
        cdef double total
        with nogil:
            total = self._in_place(&a[0, 0], &b[0, 0])
            self._trace(mapping)
        return total

    # -- fit: covariances ---------------------------------------------------------------------------------------------

    cdef void _covariance(self, const int[::1] mapping, double *c) noexcept nogil:
        cdef Py_ssize_t i
        for i in range(9):
            c[i] = 0.0
        for i in range(self.n):
            add(self.a + 3 * i, self.b + 3 * mapping[i], c)

    cdef inline double _bar(self) noexcept nogil:
        """What a mapping must exceed to be of interest: the incumbent, or the goal if only that is asked for."""
        return self.goal if self.best < self.goal < INFINITY else self.best

    cdef void _keep(self, const int[::1] mapping, double value) noexcept nogil:
        cdef Py_ssize_t i
        self.best = value
        self.enough = value >= self.goal
        for i in range(self.n):
            self.best_map[i] = mapping[i]

    cdef void _prepare_branches(self) noexcept nogil:
        """Means of all sets of atoms and covariances of all branches, for the pair at hand."""
        cdef Py_ssize_t node, branch, x
        cdef const double *ma
        cdef const double *mb
        cdef double p[3]
        cdef double d[3]
        cdef int e, i, j
        if self.branches_ready:
            return
        if not self.has_leaders:
            with gil:
                self._make_room()
        mean_over(self.a, self.n_sets_a, self.set_a_start, self.set_a, self.mean_a)
        mean_over(self.b, self.n_sets_b, self.set_b_start, self.set_b, self.mean_b)
        for node in range(self.n_nodes):
            ma = &self.mean_a[self.node_a[node], 0]
            mb = &self.mean_b[self.node_b[node], 0]
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                for e in range(9):
                    self.branch_cov[branch, e] = self.branch_rel[branch, e] = 0.0
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    i = self.pair_i[x]
                    j = self.pair_j[x]
                    add(self.a + 3 * i, self.b + 3 * j, &self.branch_cov[branch, 0])
                    for e in range(3):
                        p[e] = self.a[3 * i + e] - ma[e]
                        d[e] = self.b[3 * j + e] - mb[e]
                    add(p, d, &self.branch_rel[branch, 0])
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    i = self.set_a_start[self.group_a[x] + 1] - self.set_a_start[self.group_a[x]]
                    for e in range(3):
                        p[e] = i * (self.mean_a[self.group_a[x], e] - ma[e])
                        d[e] = self.mean_b[self.group_b[x], e] - mb[e]
                    add(p, d, &self.branch_rel[branch, 0])
        self.branches_ready = True

    cdef double _best_for(self, const double *q, double *c) noexcept nogil:
        """Best map for the rotation q into `star`; OUT c its covariance; returns the best Σ a·U'b of that map over U'."""
        cdef double u[9]
        cdef Py_ssize_t branch
        cdef const double *m
        rotation_of(q, u)
        for branch in range(self.n_branches):
            m = &self.branch_cov[branch, 0]
            self.branch_cost[branch] = -(u[0] * m[0] + u[1] * m[1] + u[2] * m[2] + u[3] * m[3] + u[4] * m[4]
                                         + u[5] * m[5] + u[6] * m[6] + u[7] * m[7] + u[8] * m[8])
        self._pass(False)
        self._trace(self.star)
        self._covariance(self.star, c)
        return largest(c, self.ceiling)

    cdef void _alternate(self, const double *start) noexcept nogil:
        """Best map for a rotation, best rotation for the map, and so on uphill: a good incumbent, no proof."""
        cdef double c[9]
        cdef double q[4]
        cdef double value, last = -INFINITY
        cdef int i
        self._prepare_branches()
        for i in range(4):
            q[i] = start[i]
        for i in range(100):
            value = self._best_for(q, c)
            if value <= last + 1e-12 * self.ceiling:
                return
            last = value
            if value > self.best:
                self._keep(self.star, value)
                if self.enough:
                    return
            eigen(c, q)

    # -- fit: search over independent blocks --------------------------------------------------------------------------

    cdef void _block_covariances(self) noexcept nogil:
        """Covariance of each map of each block; its mean over the maps goes to `partial[0]`, the rest stays in `cov`."""
        cdef Py_ssize_t block, s, x, size, first, y
        cdef double mean[9]
        cdef double top, bound
        for x in range(9):
            mean[x] = 0.0
        for x in range(self.n_fixed):
            add(self.a + 3 * self.fixed_i[x], self.b + 3 * self.fixed_j[x], mean)
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
                    add(self.a + 3 * self.block_atom[first + x],
                        self.b + 3 * self.images[self.image_start[block] + s * size + x],
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
        if not exceeds(&self.partial[depth, 0], self._bar() - self.rest[depth] + 1e-13 * self.ceiling):
            return
        if depth == self.n_blocks:
            value = largest(&self.partial[depth, 0], self.ceiling * (1 + 1e-12))
            if value > self.best:
                self._collect(value)
            return
        block = self.order[depth]
        for s in range(self.n_maps[block]):
            self.steps += 1
            if self.steps > self.block_limit:
                self.block_stopped = True
            if self.steps % 4096 == 0:
                self._look_at_clock()
            if self.stopped or self.block_stopped or self.enough:
                return
            self.choice[block] = <int>s
            for y in range(9):
                self.partial[depth + 1, y] = self.partial[depth, y] + self.cov[self.cov_start[block] + s, y]
            self._descend(depth + 1)

    cdef void _collect(self, double value) noexcept nogil:
        """The chosen maps of all blocks become the best map."""
        cdef Py_ssize_t block, x, size, first
        self.best = value
        self.enough = value >= self.goal
        for x in range(self.n_fixed):
            self.best_map[self.fixed_i[x]] = self.fixed_j[x]
        for block in range(self.n_blocks):
            first = self.block_start[block]
            size = self.block_start[block + 1] - first
            for x in range(size):
                self.best_map[self.block_atom[first + x]] = (
                    self.images[self.image_start[block] + self.choice[block] * size + x])

    # -- fit: search over rotations -----------------------------------------------------------------------------------

    cdef double _possible_gain(self, const double *q, double delta) noexcept nogil:
        """Bound on what any map can be better than `star` under any rotation within the angle delta of q.

        The gain is written as a sum over the parts of a plan. A branch gives tr(U M) with M = Σ p dᵀ over its atoms: p
        is an atom of a, or the mean of a group, relative to the mean of its node, d by how much its image differs from
        its image under `star`, relative likewise. The pieces of a group give one such term each. A rotation by at most delta bounds
        each term by itself; the best sum of bounds is one pass over the plan.
        """
        cdef double u[9]
        cdef double m[9]
        cdef double p[3]
        cdef double d[3]
        cdef Py_ssize_t s, x, node, branch, g, sa, ga, gb
        cdef const double *v
        cdef const double *lead
        cdef int e, f, i
        cdef double cd = cos(delta), sd = sin(delta)
        rotation_of(q, u)
        for s in range(self.n_sets_b):
            turn(u, &self.mean_b[s, 0], &self.turned_b[s, 0])
        for s in range(self.n):
            turn(u, self.b + 3 * self.star[s], &self.image[s, 0])
        mean_over(&self.image[0, 0], self.n_sets_a, self.set_a_start, self.set_a, self.star_mean)
        for s in range(self.n_leaders):
            branch = self.leader_branch[s]
            sa = self.leader_set[s]
            for e in range(9):
                m[e] = 0.0
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                i = self.pair_i[x]
                for e in range(3):
                    p[e] = self.a[3 * i + e] - self.mean_a[sa, e]
                    d[e] = self.image[i, e] - self.star_mean[sa, e]
                add(p, d, m)
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                ga = self.group_a[x]
                i = self.set_a_start[ga + 1] - self.set_a_start[ga]
                for e in range(3):
                    p[e] = i * (self.mean_a[ga, e] - self.mean_a[sa, e])
                    d[e] = self.star_mean[ga, e] - self.star_mean[sa, e]
                add(p, d, m)
            for e in range(9):
                self.lead_cov[s, e] = m[e]
        for node in range(self.n_nodes):
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                v = &self.branch_rel[branch, 0]
                lead = &self.lead_cov[self.leader_of[branch], 0]
                for e in range(3):
                    for f in range(3):
                        m[3 * e + f] = (v[3 * e] * u[3 * f] + v[3 * e + 1] * u[3 * f + 1]
                                        + v[3 * e + 2] * u[3 * f + 2] - lead[3 * e + f])
                self.branch_cost[branch] = -matrix_term(m, cd, sd)
                for g in range(self.group_start[branch], self.group_start[branch + 1]):
                    ga = self.group_a[g]
                    gb = self.group_b[g]
                    for x in range(self.child_start[g], self.child_start[g + 1]):
                        self.child_cost[x] = -self._set_term(
                            self.node_a[self.child[x]], ga, self.node_b[self.child[x]], gb, cd, sd)
        return -self._pass(True)

    cdef inline double _set_term(self, Py_ssize_t a, Py_ssize_t of_a, Py_ssize_t b, Py_ssize_t of_b,
                                 double cd, double sd) noexcept nogil:
        cdef int size = self.set_a_start[a + 1] - self.set_a_start[a]
        if a == of_a:
            return 0.0
        return size * term(&self.mean_a[a, 0], &self.mean_a[of_a, 0], &self.turned_b[b, 0], &self.turned_b[of_b, 0],
                           &self.star_mean[a, 0], &self.star_mean[of_a, 0], cd, sd)

    cdef void _rotations(self) noexcept nogil:
        """Best-first branch and bound over cells of the unit quaternions (four cubes projected on the half sphere)."""
        cdef Cell cell
        cdef double c[9]
        cdef double q[4]
        cdef double value, radius, here
        cdef int i
        self._prepare_branches()
        self.n_cells = 0
        for i in range(4):
            cell.face = i
            cell.at[0] = cell.at[1] = cell.at[2] = 0.0
            cell.half = 1.0
            cell.bound = self.upper
            self._start_from(&cell)
            self._push(&cell)
        while self.n_cells > 0 and not self.enough:
            self.upper = self.cells[0].bound
            if self.upper <= self._bar() + self.tolerance:
                return
            self.steps += 1
            if self.steps % 64 == 0:
                self._look_at_clock()
            if self.steps > self.step_limit or self.stopped:
                self.stopped = True
                return
            self._pop(&cell)
            radius = quaternion(&cell, q)
            value = self._best_for(q, c)
            if value > self.best + 1e-12 * self.ceiling:
                self._keep(self.star, value)
                eigen(c, q)
                self._alternate(q)
                quaternion(&cell, q)
                value = self._best_for(q, c)
            here = within(c, q, radius, value)
            if here <= self._bar() + self.tolerance and radius < WIDE:
                here += self._possible_gain(q, 2 * radius)
                if here < cell.bound:
                    cell.bound = here
                if here > self._bar() + self.tolerance and self._list_maps(here - self._bar() - self.tolerance):
                    continue
            if cell.bound > self._bar() + self.tolerance:
                self._split(&cell)

    cdef bint _list_maps(self, double slack) noexcept nogil:
        self.cell_number += 1
        self.listed = 0
        self.open_top = 1
        self.open_item[0] = <int>(self.n_nodes - 1)
        self.open_next[0] = -1
        self._visit(0, slack)
        return self.listed <= MOST_LISTED

    cdef void _visit(self, int head, double slack) noexcept nogil:
        cdef double c[9]
        cdef double value, regret
        cdef int item, rest, mark, k, fresh
        cdef Py_ssize_t branch, x, first
        if self.listed > MOST_LISTED:
            return
        if head < 0:
            self.listed += 1
            self._covariance(self.trial, c)
            if exceeds(c, self.best):
                value = largest(c, self.ceiling)
                if value > self.best:
                    self._keep(self.trial, value)
            return
        item = self.open_item[head]
        rest = self.open_next[head]
        mark = self.open_top
        if item >= 0:
            for branch in range(self.node_start[item], self.node_start[item + 1]):
                regret = self.branch_value[branch] - self.value[item]
                if regret > slack:
                    continue
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    self.trial[self.pair_i[x]] = self.pair_j[x]
                fresh = rest
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    fresh = self._open(-1 - <int>x, fresh)
                self._visit(fresh, slack - regret)
                self.open_top = mark
            return
        x = -1 - item
        k = self.group_size[x]
        first = self.child_start[x]
        if k == 1:
            self._visit(self._open(self.child[first], rest), slack)
            self.open_top = mark
            return
        if self.above_of[x] != self.cell_number:
            self.above_of[x] = self.cell_number
            self._reduce(x)
        self._rows(x, 0, rest, slack)

    cdef void _rows(self, Py_ssize_t group, int row, int rest, double slack) noexcept nogil:
        cdef int k = self.group_size[group], column, mark = self.open_top
        cdef Py_ssize_t first = self.child_start[group] + row * k, out = self.column_start[group]
        cdef double left
        if row == k:
            self._visit(rest, slack)
            return
        for column in range(k):
            if self.taken[out + column]:
                continue
            left = slack - self.above[first + column]
            if left < 0:
                continue
            self.taken[out + column] = 1
            self._rows(group, row + 1, self._open(self.child[first + column], rest), left)
            self.taken[out + column] = 0
            self.open_top = mark
            if self.listed > MOST_LISTED:
                return

    cdef inline int _open(self, int item, int rest) noexcept nogil:
        self.open_item[self.open_top] = item
        self.open_next[self.open_top] = rest
        self.open_top += 1
        return self.open_top - 1

    cdef void _reduce(self, Py_ssize_t group) noexcept nogil:
        cdef int k = self.group_size[group], r, c, x
        cdef Py_ssize_t first = self.child_start[group]
        for x in range(k * k):
            self.cost[x] = self.value[self.child[first + x]] + self.child_cost[first + x]
        self._assign_many(k, self.column_start[group])
        for r in range(k):
            for c in range(k):
                self.above[first + r * k + c] = self.cost[r * k + c] - self.hu[r + 1] - self.hv[c + 1]
                if self.above[first + r * k + c] < 0:
                    self.above[first + r * k + c] = 0

    cdef void _start_from(self, const Cell *whole) noexcept nogil:
        """Incumbents from the middles of the eight parts of a face."""
        cdef Cell part
        cdef double q[4]
        cdef int i
        for i in range(8):
            eighth(whole, i, &part)
            quaternion(&part, q)
            self._alternate(q)

    cdef void _split(self, const Cell *cell) noexcept nogil:
        cdef Cell part
        cdef int i
        for i in range(8):
            eighth(cell, i, &part)
            self._push(&part)

    cdef void _push(self, const Cell *cell) noexcept nogil:
        """Into a binary heap with the largest bound on top."""
        cdef Py_ssize_t place = self.n_cells, parent
        cdef Cell *grown
        if self.n_cells == self.capacity:
            grown = <Cell *>realloc(self.cells, (2 * self.capacity + 1024) * sizeof(Cell))
            if grown == NULL:
                self._out_of_memory()
                return
            self.cells = grown
            self.capacity = 2 * self.capacity + 1024
        self.n_cells += 1
        while place > 0:
            parent = (place - 1) // 2
            if self.cells[parent].bound >= cell.bound:
                break
            self.cells[place] = self.cells[parent]
            place = parent
        self.cells[place] = cell[0]

    cdef void _pop(self, Cell *out) noexcept nogil:
        cdef Py_ssize_t place = 0, child
        cdef Cell last
        out[0] = self.cells[0]
        self.n_cells -= 1
        last = self.cells[self.n_cells]
        while True:
            child = 2 * place + 1
            if child >= self.n_cells:
                break
            if child + 1 < self.n_cells and self.cells[child + 1].bound > self.cells[child].bound:
                child += 1
            if self.cells[child].bound <= last.bound:
                break
            self.cells[place] = self.cells[child]
            place = child
        self.cells[place] = last

    cdef void _out_of_memory(self) noexcept nogil:
        with gil:
            self.pending = MemoryError(f"{self.n_cells} cells of rotations: give a node_limit")
            self.stopped = True

    # -- fit ----------------------------------------------------------------------------------------------------------

    cdef void _look_at_clock(self) noexcept nogil:
        with gil:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                self.pending = error
                self.stopped = True
            if time.monotonic() > self.deadline:
                self.stopped = True

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
        self.a = a
        self.b = b
        self.ceiling = squares / 2
        self.upper = self.ceiling
        self.goal = INFINITY if self.within_square < 0 else self.ceiling - self.within_square / 2
        self.best = -INFINITY
        self.steps = 0
        self.stopped = self.block_stopped = self.enough = self.branches_ready = False
        if self.has_blocks and self.n_blocks == 0:
            for i in range(9):
                c[i] = 0.0
            for i in range(self.n_fixed):
                self.best_map[self.fixed_i[i]] = self.fixed_j[i]
                add(a + 3 * self.fixed_i[i], b + 3 * self.fixed_j[i], c)
            self.best = largest(c, self.ceiling)
        else:
            self._search_maps()
        total = squares - 2 * self.best
        if q != NULL or total <= 1e-4 * squares:
            self._covariance(self.best_map, c)
            eigen(c, near)
            # The difference of large numbers loses its digits as the fit gets better: sum the residuals instead.
            total = self._residual(near)
            if q != NULL:
                for i in range(4):
                    q[i] = near[i]
        return total

    cdef void _search_maps(self) noexcept nogil:
        cdef double q[4]
        cdef double c[9]
        if self.ceiling == 0.0:     # every atom at one point
            q[0] = 1.0
            q[1] = q[2] = q[3] = 0.0
            self._prepare_branches()
            self._best_for(q, c)
            self._keep(self.star, 0.0)
            return
        self.block_stopped = True
        if self.has_blocks:
            self.block_stopped = False
            self._block_covariances()
            self._order_blocks()
            if self.n_blocks > 8 or self.cov.shape[0] > 200:
                eigen(&self.partial[0, 0], q)
                self._alternate(q)
            self._descend(0)
        if self.enough or not self.block_stopped:
            return
        # The answer is good to 5e-8 Å: ties between maps would otherwise be subdivided for ever.
        q[0] = 1.0
        q[1] = q[2] = q[3] = 0.0
        self._alternate(q)
        self.tolerance = 5e-8 * sqrt(self.n * fabs(2 * (self.ceiling - self._bar())) + 1e-8 * self.n)
        self._rotations()

    cdef double _residual(self, const double *q) noexcept nogil:
        cdef double u[9]
        cdef double image[3]
        cdef Py_ssize_t i
        cdef int e
        cdef double d, total = 0.0
        rotation_of(q, u)
        for i in range(self.n):
            turn(u, self.b + 3 * self.best_map[i], image)
            for e in range(3):
                d = self.a[3 * i + e] - image[e]
                total += d * d
        return total

    def _limits(self, step_limit, deadline):
        self.step_limit = (1 << 62) if step_limit is None else step_limit
        self.block_limit = min(self.step_limit, BLOCK_STEPS)
        self.deadline = INFINITY if deadline is None else deadline
        self.within_square = -1.0
        self.pending = None

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
        if self.pending is not None:
            raise self.pending
        lower = max(0.0, squares - 2 * self.upper) if self.stopped else total
        return total, min(lower, total), not self.stopped

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
        threads share it, and a large number there stops them. Returns the first pair that a limit stopped, or None.
        """
        cdef Py_ssize_t k = positions.shape[0], step = 3 * self.n, row, other, first, last, n_tiles = (k + TILE - 1) // TILE
        cdef const double *x = &positions[0, 0, 0] if k > 0 else NULL
        cdef double *centred = NULL
        cdef const double *squares = NULL
        cdef double d
        cdef long long tile
        self._limits(step_limit, deadline)
        if k < 2:
            return None
        if align:
            centred = self._centred(x, k)
            x = centred
            squares = centred + step * k
        row = other = -1
        with nogil:
            self.stopped = False
            while not self.stopped:
                tile = FETCH_NEXT(&counter[0])
                if tile >= n_tiles:
                    break
                self._look_at_clock()
                # The longest rows first, so that no thread is left with a long one at the end.
                last = k - tile * TILE
                first = last - TILE if last > TILE else 0
                for other in range(last - 1):
                    for row in range(max(first, other + 1), last):
                        d = self._one(x + step * row, x + step * other,
                                      squares[row] + squares[other] if align else 0.0, align)
                        if self.stopped:
                            break
                        out[row, other] = out[other, row] = d
                    if self.stopped:
                        break
        free(centred)
        if self.pending is not None:
            raise self.pending
        return (row, other) if self.stopped else None

    def table_rows(self, const double[:, :, ::1] a, const double[:, :, ::1] b, double[:, ::1] out,
                   long long[::1] counter, bint align, step_limit=None, deadline=None):
        """RMSD (Å) of each of k conformers to each of m others; OUT out (k, m), otherwise as `matrix_rows`."""
        cdef Py_ssize_t k = a.shape[0], m = b.shape[0], step = 3 * self.n, other = -1
        cdef const double *x = NULL
        cdef const double *y = NULL
        cdef double *centred_a = NULL
        cdef double *centred_b = NULL
        cdef double d
        cdef long long row = -1
        self._limits(step_limit, deadline)
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
                self.stopped = False
                while not self.stopped:
                    row = FETCH_NEXT(&counter[0])
                    if row >= k:
                        break
                    self._look_at_clock()
                    for other in range(m):
                        d = self._one(x + step * row, y + step * other,
                                      x[step * k + row] + y[step * m + other] if align else 0.0, align)
                        if self.stopped:
                            break
                        out[row, other] = d
        finally:
            free(centred_a)
            free(centred_b)
        if self.pending is not None:
            raise self.pending
        return (row, other) if self.stopped else None

    def first_near(self, const double[:, :, ::1] positions, const Py_ssize_t[::1] kept, Py_ssize_t row,
                   double threshold, bint align, deadline=None):
        """The first entry of `kept` whose conformer is nearer than `threshold` (Å) to conformer `row`.

        Returns (that conformer or -1, whether every comparison was finished). The search of a pair ends as soon as
        the question is settled, long before the RMSD itself is known.
        """
        cdef const double *a = &positions[row, 0, 0]
        cdef const double *b
        cdef double middle[3]
        cdef double total, squares_a = 0.0, squares_b
        cdef Py_ssize_t x, other, found = -1
        self._limits(None, deadline)
        self.within_square = threshold * threshold * self.n
        with nogil:
            self.stopped = False
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
                if total < self.within_square:
                    found = other
                    self.nearest = sqrt(max(total, 0.0) / self.n)
                    break
                if self.stopped:
                    break
        if self.pending is not None:
            raise self.pending
        return found, found >= 0 or not self.stopped
