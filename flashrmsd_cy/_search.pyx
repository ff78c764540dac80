# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled core: evaluation of a packed plan for pairs of conformers, in place and under rotation.

Everything that is done per pair lives here, without Python objects and without the GIL. Shapes are checked by `_api`.
Rotations act on b: the sum minimised is Σ |a_i − U b_π(i)|² over centred coordinates, and tr(U Cᵀ) with the 3 × 3
covariance C = Σ a_i b_π(i)ᵀ is maximised, which is the largest eigenvalue of Horn's 4 × 4 matrix K(C).
"""

import time

import numpy as np

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY, cos, fabs, sin, sqrt
from libc.stdlib cimport free, realloc

from flashrmsd_cy._cells cimport Cell, eighth, quaternion, term, within
from flashrmsd_cy._horn cimport eigen, exceeds, largest, nuclear_bound, rotation_of

cdef enum:
    BLOCK_STEPS = 20_000        # nodes of the search over blocks before the search over rotations takes over
cdef double WIDE = 0.75         # cells with a larger radius are split without asking what could be gained in them

cdef struct Placement:          # where b is put on a
    double[4] q
    double[3] centre_a
    double[3] centre_b
    double squares              # Σ |a|² + Σ |b|² about the centroids


cdef void mean_over(double[:, ::1] x, const int[::1] start, const int[::1] atoms, double[:, ::1] out) noexcept nogil:
    """OUT out (sets, 3): mean position of the atoms of each set."""
    cdef Py_ssize_t s, i
    cdef int e
    for s in range(out.shape[0]):
        for e in range(3):
            out[s, e] = 0.0
        for i in range(start[s], start[s + 1]):
            for e in range(3):
                out[s, e] += x[atoms[i], e]
        for e in range(3):
            out[s, e] /= start[s + 1] - start[s]


@cython.final
cdef class Search:
    """One plan with the working memory of one thread; see `_pack.Packed` and `_pack.Blocks` for the arrays."""

    # IN: the plan
    cdef Py_ssize_t n, n_nodes, n_branches, n_groups
    cdef const int[::1] node_start, pair_start, group_start, pair_i, pair_j, group_size, child_start, child
    cdef const int[::1] node_a, node_b, group_a, group_b, set_a_start, set_a, set_b_start, set_b
    # IN: the blocks, where they can be listed
    cdef bint has_blocks
    cdef Py_ssize_t n_blocks, n_fixed
    cdef const int[::1] fixed_i, fixed_j, block_start, block_atom, n_maps, image_start, images, cov_start
    # scratch of the pass over the plan
    cdef double[::1] value, pair_cost, group_cost, child_cost, cost, hu, hv, slack
    cdef int[::1] chosen, column_start, column, todo, match, way
    cdef unsigned char[::1] used
    # scratch of the fit: centred a and b, b rotated, means over sets of atoms
    cdef double[:, ::1] a, b, ub, mean_a, mean_b, turned_b, star_mean, partial, cov
    cdef double[::1] spread, rest
    cdef int[::1] star, best_map, order, choice
    # state of one fit
    cdef double best, ceiling, upper, tolerance, deadline
    cdef double within_square, goal   # Σ below which a pair counts as near (−1: not asked), and the Σ a·U b it needs
    cdef readonly long long steps     # of the last pair
    cdef long long step_limit, block_limit
    cdef bint stopped, block_stopped, enough
    cdef object pending
    cdef Cell *cells
    cdef Py_ssize_t n_cells, capacity

    def __cinit__(self):
        self.cells = NULL
        self.capacity = 0

    def __dealloc__(self):
        free(self.cells)

    def __init__(self, plan, blocks=None):
        self.n = plan.n_atoms
        self.node_start, self.pair_start, self.group_start = plan.node_start, plan.pair_start, plan.group_start
        self.pair_i, self.pair_j = plan.pair_i, plan.pair_j
        self.group_size, self.child_start, self.child = plan.group_size, plan.child_start, plan.child
        self.node_a, self.node_b, self.group_a, self.group_b = plan.node_a, plan.node_b, plan.group_a, plan.group_b
        self.set_a_start, self.set_a = plan.set_a_start, plan.set_a
        self.set_b_start, self.set_b = plan.set_b_start, plan.set_b
        self.n_nodes, self.n_branches = len(plan.node_start) - 1, len(plan.pair_start) - 1
        self.n_groups = len(plan.group_size)
        widest = int(max(plan.group_size, default=0)) + 1
        self.value, self.chosen = np.zeros(self.n_nodes), np.zeros(self.n_nodes, np.int32)
        self.pair_cost, self.group_cost = np.zeros(len(plan.pair_i)), np.zeros(self.n_groups)
        self.child_cost = np.zeros(len(plan.child))
        self.cost = np.zeros(widest * widest)
        self.hu, self.hv, self.slack = np.zeros(widest), np.zeros(widest), np.zeros(widest)
        self.match, self.way = np.zeros(widest, np.int32), np.zeros(widest, np.int32)
        self.used = np.zeros(widest, np.uint8)
        self.column_start = np.concatenate([[0], np.cumsum(plan.group_size)]).astype(np.int32)
        self.column = np.zeros(int(plan.group_size.sum()), np.int32)
        self.todo = np.zeros(self.n + self.n_nodes + 1, np.int32)
        self.star, self.best_map = np.zeros(self.n, np.int32), np.zeros(self.n, np.int32)
        self.a, self.b, self.ub = np.zeros((self.n, 3)), np.zeros((self.n, 3)), np.zeros((self.n, 3))
        sets_a, sets_b = len(plan.set_a_start) - 1, len(plan.set_b_start) - 1
        self.mean_a, self.star_mean = np.zeros((sets_a, 3)), np.zeros((sets_a, 3))
        self.mean_b, self.turned_b = np.zeros((sets_b, 3)), np.zeros((sets_b, 3))
        self._take_blocks(blocks)

    def _take_blocks(self, blocks):
        self.has_blocks = blocks is not None
        if blocks is None:
            return
        self.fixed_i, self.fixed_j = blocks.fixed_i, blocks.fixed_j
        self.block_start, self.block_atom = blocks.atom_start, blocks.atoms
        self.n_maps, self.image_start, self.images = blocks.n_maps, blocks.image_start, blocks.images
        self.n_blocks, self.n_fixed = len(blocks.n_maps), len(blocks.fixed_i)
        cov_start = np.concatenate([[0], np.cumsum(blocks.n_maps)]).astype(np.int32)
        self.cov_start = cov_start
        self.cov = np.zeros((int(blocks.n_maps.sum()), 9))
        self.partial = np.zeros((self.n_blocks + 1, 9))
        self.spread, self.rest = np.zeros(self.n_blocks), np.zeros(self.n_blocks + 1)
        self.order, self.choice = np.zeros(self.n_blocks, np.int32), np.zeros(self.n_blocks, np.int32)

    # -- the pass over the plan ---------------------------------------------------------------------------------------

    cdef double _pass(self, bint relative) noexcept nogil:
        """Least total cost over all isomorphisms, from pair costs (and, if `relative`, those of groups and pieces)."""
        cdef Py_ssize_t node, branch, x
        cdef double total, best = INFINITY
        for node in range(self.n_nodes):
            best = INFINITY
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                total = 0.0
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    total += self.pair_cost[x]
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    if relative:
                        total += self.group_cost[x]
                    total += self._assign(x, relative)
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

    cdef double _in_place(self, const double[:, ::1] a, const double[:, ::1] b) noexcept nogil:
        cdef Py_ssize_t x, i, j
        cdef double dx, dy, dz
        for x in range(self.pair_i.shape[0]):
            i = self.pair_i[x]
            j = self.pair_j[x]
            dx = a[i, 0] - b[j, 0]
            dy = a[i, 1] - b[j, 1]
            dz = a[i, 2] - b[j, 2]
            self.pair_cost[x] = dx * dx + dy * dy + dz * dz
        return self._pass(False)

    def in_place(self, const double[:, ::1] a, const double[:, ::1] b, int[::1] mapping):
        """Least Σ |a_i − b_π(i)|² in Å²; OUT mapping (n,)."""
        cdef double total
        with nogil:
            total = self._in_place(a, b)
            self._trace(mapping)
        return total

    def in_place_row(self, const double[:, :, ::1] positions, Py_ssize_t row, double[::1] out):
        """OUT out (k,): RMSD (Å) of conformer `row` to each one before it."""
        cdef Py_ssize_t other
        with nogil:
            for other in range(row):
                out[other] = sqrt(self._in_place(positions[row], positions[other]) / self.n)

    # -- fit: covariances ---------------------------------------------------------------------------------------------

    cdef void _covariance(self, const int[::1] mapping, double *c) noexcept nogil:
        cdef Py_ssize_t i, j
        for i in range(9):
            c[i] = 0.0
        for i in range(self.n):
            self._add(i, mapping[i], c)

    cdef inline void _add(self, Py_ssize_t i, Py_ssize_t j, double *c) noexcept nogil:
        cdef int x, y
        for x in range(3):
            for y in range(3):
                c[3 * x + y] += self.a[i, x] * self.b[j, y]

    cdef inline double _bar(self) noexcept nogil:
        """What a mapping must exceed to be of interest: the incumbent, or the goal if only that is asked for."""
        return self.goal if self.best < self.goal < INFINITY else self.best

    cdef void _keep(self, const int[::1] mapping, double value) noexcept nogil:
        cdef Py_ssize_t i
        self.best = value
        self.enough = value >= self.goal
        for i in range(self.n):
            self.best_map[i] = mapping[i]

    cdef void _rotate_b(self, const double *q) noexcept nogil:
        cdef double u[9]
        cdef Py_ssize_t j
        cdef int x
        rotation_of(q, u)
        for j in range(self.n):
            for x in range(3):
                self.ub[j, x] = u[3 * x] * self.b[j, 0] + u[3 * x + 1] * self.b[j, 1] + u[3 * x + 2] * self.b[j, 2]

    cdef double _best_for(self, const double *q, double *c) noexcept nogil:
        """Best map for the rotation q into `star`; OUT c its covariance; returns the best Σ a·U'b of that map over U'."""
        cdef Py_ssize_t x, i, j
        self._rotate_b(q)
        for x in range(self.pair_i.shape[0]):
            i = self.pair_i[x]
            j = self.pair_j[x]
            self.pair_cost[x] = -(self.a[i, 0] * self.ub[j, 0] + self.a[i, 1] * self.ub[j, 1]
                                  + self.a[i, 2] * self.ub[j, 2])
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
            self.partial[0, x] = 0.0
        for x in range(self.n_fixed):
            self._add(self.fixed_i[x], self.fixed_j[x], &self.partial[0, 0])
        for block in range(self.n_blocks):
            first = self.block_start[block]
            size = self.block_start[block + 1] - first
            for y in range(9):
                mean[y] = 0.0
            for s in range(self.n_maps[block]):
                for y in range(9):
                    self.cov[self.cov_start[block] + s, y] = 0.0
                for x in range(size):
                    self._add(self.block_atom[first + x], self.images[self.image_start[block] + s * size + x],
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

    cdef void _set_means(self) noexcept nogil:
        mean_over(self.a, self.set_a_start, self.set_a, self.mean_a)
        mean_over(self.b, self.set_b_start, self.set_b, self.mean_b)

    cdef double _possible_gain(self, const double *q, double delta) noexcept nogil:
        """Bound on what any map can be better than `star` under any rotation within the angle delta of q.

        The gain is written as a sum of p·U d, where p is an atom (or the mean of a piece) of a relative to the mean of
        the piece or group it belongs to, and d is by how much its image differs from its image under `star`, relative
        likewise. A rotation by at most delta turns U d by at most delta, which bounds each term; the best sum of bounds
        is one pass over the plan.
        """
        cdef double u[9]
        cdef Py_ssize_t s, x, node, branch, g, sa, sb, ga, gb
        cdef int e
        cdef double cd = cos(delta), sd = sin(delta)
        rotation_of(q, u)
        for s in range(self.mean_b.shape[0]):
            for e in range(3):
                self.turned_b[s, e] = (u[3 * e] * self.mean_b[s, 0] + u[3 * e + 1] * self.mean_b[s, 1]
                                       + u[3 * e + 2] * self.mean_b[s, 2])
        for s in range(self.star_mean.shape[0]):
            for e in range(3):
                self.star_mean[s, e] = 0.0
            for x in range(self.set_a_start[s], self.set_a_start[s + 1]):
                for e in range(3):
                    self.star_mean[s, e] += self.ub[self.star[self.set_a[x]], e]
            for e in range(3):
                self.star_mean[s, e] /= self.set_a_start[s + 1] - self.set_a_start[s]
        for node in range(self.n_nodes):
            sa = self.node_a[node]
            sb = self.node_b[node]
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    self.pair_cost[x] = -term(
                        &self.a[self.pair_i[x], 0], &self.mean_a[sa, 0], &self.ub[self.pair_j[x], 0],
                        &self.turned_b[sb, 0], &self.ub[self.star[self.pair_i[x]], 0], &self.star_mean[sa, 0], cd, sd)
                for g in range(self.group_start[branch], self.group_start[branch + 1]):
                    ga = self.group_a[g]
                    gb = self.group_b[g]
                    self.group_cost[g] = -self._set_term(ga, sa, gb, sb, cd, sd)
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
        self._set_means()
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
            if cell.bound > self._bar() + self.tolerance:
                self._split(&cell)

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

    cdef double _centre(self, const double[:, ::1] x, double[:, ::1] out, double *middle) noexcept nogil:
        """OUT out (n, 3) relative to the centroid, OUT middle (3,); returns the sum of squares."""
        cdef Py_ssize_t i
        cdef int e
        cdef double total = 0.0
        for e in range(3):
            middle[e] = 0.0
        for i in range(self.n):
            for e in range(3):
                middle[e] += x[i, e]
        for e in range(3):
            middle[e] /= self.n
        for i in range(self.n):
            for e in range(3):
                out[i, e] = x[i, e] - middle[e]
                total += out[i, e] * out[i, e]
        return total

    cdef double _fit(self, const double[:, ::1] a, const double[:, ::1] b, Placement *at, bint whole) noexcept nogil:
        """Least Σ |a_i − U b_π(i)|² in Å²; OUT best_map, the centroids, and the rotation if it is asked for (`whole`)."""
        cdef double c[9]
        cdef double total
        cdef Py_ssize_t i
        at.squares = self._centre(a, self.a, at.centre_a) + self._centre(b, self.b, at.centre_b)
        self.ceiling = at.squares / 2
        self.upper = self.ceiling
        self.goal = INFINITY if self.within_square < 0 else self.ceiling - self.within_square / 2
        self.best = -INFINITY
        self.steps = 0
        self.stopped = self.block_stopped = self.enough = False
        if self.has_blocks and self.n_blocks == 0:
            for i in range(self.n):
                self.best_map[self.fixed_i[i]] = self.fixed_j[i]
            self._covariance(self.best_map, c)
            self.best = largest(c, self.ceiling)
        else:
            self._search_maps()
        total = at.squares - 2 * self.best
        if whole or total <= 1e-4 * at.squares:
            self._covariance(self.best_map, c)
            eigen(c, at.q)
            # The difference of large numbers loses its digits as the fit gets better: sum the residuals instead.
            total = self._residual(at.q)
        return total

    cdef void _search_maps(self) noexcept nogil:
        cdef double q[4]
        cdef double c[9]
        if self.ceiling == 0.0:     # every atom at one point
            q[0] = 1.0
            q[1] = q[2] = q[3] = 0.0
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
        cdef Py_ssize_t i
        cdef int e
        cdef double d, total = 0.0
        self._rotate_b(q)
        for i in range(self.n):
            for e in range(3):
                d = self.a[i, e] - self.ub[self.best_map[i], e]
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
        cdef Placement at
        cdef double u[9]
        cdef double total
        cdef int x, y
        self._limits(step_limit, deadline)
        with nogil:
            total = self._fit(a, b, &at, True)
            rotation_of(at.q, u)
            for x in range(3):
                translation[x] = at.centre_a[x]
                for y in range(3):
                    rotation[x, y] = u[3 * x + y]
                    translation[x] -= u[3 * x + y] * at.centre_b[y]
            mapping[:] = self.best_map
        if self.pending is not None:
            raise self.pending
        lower = max(0.0, at.squares - 2 * self.upper) if self.stopped else total
        return total, min(lower, total), not self.stopped

    def fit_row(self, const double[:, :, ::1] positions, Py_ssize_t row, double[::1] out, step_limit=None,
                deadline=None):
        """OUT out (k,): RMSD (Å) after the fit of conformer `row` to each one before it.

        Returns the first conformer whose pair was stopped by a limit, or -1.
        """
        cdef Placement at
        cdef Py_ssize_t other, stopped = -1
        self._limits(step_limit, deadline)
        with nogil:
            for other in range(row):
                out[other] = sqrt(self._fit(positions[row], positions[other], &at, False) / self.n)
                if self.stopped:
                    stopped = other
                    break
        if self.pending is not None:
            raise self.pending
        return stopped


    def first_near(self, const double[:, :, ::1] positions, const Py_ssize_t[::1] kept, Py_ssize_t row,
                   double threshold, bint align, deadline=None):
        """The first entry of `kept` whose conformer is nearer than `threshold` (Å) to conformer `row`.

        Returns (that conformer or -1, whether every comparison was finished). The search of a pair ends as soon as
        the question is settled, long before the RMSD itself is known.
        """
        cdef Placement at
        cdef double total
        cdef Py_ssize_t x, other, found = -1
        self._limits(None, deadline)
        self.within_square = threshold * threshold * self.n
        with nogil:
            self.stopped = False
            for x in range(kept.shape[0]):
                other = kept[x]
                if align:
                    total = self._fit(positions[row], positions[other], &at, False)
                else:
                    total = self._in_place(positions[row], positions[other])
                if total < self.within_square:
                    found = other
                    break
                if self.stopped:
                    break
        if self.pending is not None:
            raise self.pending
        return found, found >= 0 or not self.stopped
