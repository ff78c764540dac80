# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Three plain searches over mappings, from the simplest on: exact, for study and as a check of the real one.

1. Atoms in the order in which they are given. Candidates of an atom are those of equal label and number of neighbours.
2. Candidates are those of equal colour (refined until stable); atoms with one candidate come first.
3. The other atoms are split into blocks that have neither bonds nor candidates in common, searched one after another.

In the fixed frame the candidates of an atom are tried from the nearest on, and a partial mapping is given up when the
sum of its squares reaches the best one; a block of level 3 is searched by itself, so that costs add up instead of
multiplying. After a fit no partial mapping is given up: each complete one is fitted once. The time therefore grows with
the number of mappings, which `flashrmsd_cy._search` avoids.
"""

import time
from array import array

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport INFINITY

from flashrmsd_cy._graph import colours

from flashrmsd_cy._horn cimport eigen, largest, rotation_of


def search(graph, Py_ssize_t n, int level, bint align, a, b, mapping, rotation, translation, node_limit=None,
           deadline=None):
    """Least Σ |a_i − (U b_π(i) + t)|² in Å² over the mappings π of a graph onto itself, and over U and t if `align`.

    Parameters
    ----------
    graph : Graph
        Its first n vertices are atoms.
    level : {1, 2, 3}
    a, b : (n, 3) float64
    mapping, rotation, translation
        OUT (n,) int32, (3, 3) and (3,) float64.

    Returns
    -------
    (sum, lower bound of the sum, whether proved)
    """
    return _Levels(graph, n, level).run(a, b, align, mapping, rotation, translation, node_limit, deadline)


@cython.final
cdef class _Levels:
    cdef Py_ssize_t n, n_vertices, n_blocks
    # the graph: neighbours of vertex v are near[start[v]:start[v + 1]], by bonds of type kind
    cdef int[::1] start, near, kind
    # vertices in the order of the search; those of block k are order[block_start[k]:block_start[k + 1]]
    cdef int[::1] order, block_start
    # candidates of vertex v: candidate[candidate_start[v]:candidate_start[v + 1]], with their squares in Å²
    cdef int[::1] candidate_start, candidate
    cdef double[::1] cost
    cdef int[::1] image, best_image
    cdef unsigned char[::1] taken
    cdef double[:, ::1] a, b, partial
    cdef bint align, stopped
    cdef double best, ceiling, deadline
    cdef long long nodes, node_limit
    cdef object pending

    def __init__(self, graph, n, level):
        cdef Py_ssize_t v
        self.n, self.n_vertices = n, len(graph)
        self.start, self.near, self.kind = graph.arrays()
        colour = colours(graph, level > 1)
        members = {}
        for v in range(self.n_vertices):
            members.setdefault(colour[v], []).append(v)
        lists = [members[colour[v]] for v in range(self.n_vertices)]
        self.candidate_start = _starts(map(len, lists))
        self.candidate = array("i", [w for row in lists for w in row])
        self.cost = array("d", bytes(8 * len(self.candidate)))
        blocks = _blocks(graph.bonds(), lists, level)
        self.order = array("i", [v for block in blocks for v in block])
        self.block_start = _starts(map(len, blocks))
        self.n_blocks = len(blocks)
        self.image, self.best_image = array("i", [-1] * self.n_vertices), array("i", range(self.n_vertices))
        self.taken = bytearray(self.n_vertices)
        self.partial = memoryview(bytearray(72 * (self.n_blocks + 1))).cast("B").cast("d", (self.n_blocks + 1, 9))

    def run(self, const double[:, ::1] a, const double[:, ::1] b, bint align, int[::1] mapping,
            double[:, ::1] rotation, double[::1] translation, node_limit, deadline):
        cdef double middle[2][3]
        cdef double c[9]
        cdef double q[4]
        cdef double u[9]
        cdef double total = 0.0, least = 0.0
        cdef Py_ssize_t i, x, y
        self.a, self.b = _copy(a), _copy(b)
        self.align = align
        self.node_limit = (1 << 62) if node_limit is None else node_limit
        self.deadline = INFINITY if deadline is None else deadline
        for x in range(3):
            translation[x] = 0.0
            for y in range(3):
                rotation[x, y] = x == y
        if align:
            self.ceiling = (_centre(self.a, middle[0]) + _centre(self.b, middle[1])) / 2
        else:
            self._squares()
        with nogil:
            least = self._search()
        if self.pending is not None:
            raise self.pending
        for i in range(self.n):
            mapping[i] = self.best_image[i]
        if align:
            for x in range(9):
                c[x] = 0.0
            for i in range(self.n):
                self._add(i, mapping[i], c)
            eigen(c, q)
            rotation_of(q, u)
            for x in range(3):
                translation[x] = middle[0][x]
                for y in range(3):
                    rotation[x, y] = u[3 * x + y]
                    translation[x] -= u[3 * x + y] * middle[1][y]
        for i in range(self.n):
            for x in range(3):
                y = mapping[i]
                total += (a[i, x] - rotation[x, 0] * b[y, 0] - rotation[x, 1] * b[y, 1] - rotation[x, 2] * b[y, 2]
                          - translation[x]) ** 2
        return total, (min(least, total) if self.stopped else total), not self.stopped

    cdef void _squares(self):
        """Squared distances of all candidates, the nearest first."""
        cdef Py_ssize_t v, x, y, first
        cdef int w
        cdef double d
        for v in range(self.n):
            first = self.candidate_start[v]
            for x in range(first, self.candidate_start[v + 1]):
                w = self.candidate[x]
                d = ((self.a[v, 0] - self.b[w, 0]) ** 2 + (self.a[v, 1] - self.b[w, 1]) ** 2
                     + (self.a[v, 2] - self.b[w, 2]) ** 2)
                y = x
                while y > first and self.cost[y - 1] > d:
                    self.candidate[y] = self.candidate[y - 1]
                    self.cost[y] = self.cost[y - 1]
                    y -= 1
                self.candidate[y] = w
                self.cost[y] = d

    cdef double _search(self) noexcept nogil:
        """All blocks; returns a lower bound of the sum of squares."""
        cdef Py_ssize_t block, x
        cdef int v
        cdef double least = 0.0
        self.nodes = 0
        self.stopped = False
        if self.align:
            self.best = -INFINITY
            for x in range(9):
                self.partial[0, x] = 0.0
            self._descend(0, 0, 0.0)
            return 0.0
        for block in range(self.n_blocks):
            self.best = INFINITY
            if not self.stopped:
                self._descend(self.block_start[block], block, 0.0)
            for x in range(self.block_start[block], self.block_start[block + 1]):
                v = self.order[x]
                self.image[v] = self.best_image[v]
                self.taken[self.best_image[v]] = 1
                if self.stopped:
                    least += self.cost[self.candidate_start[v]]
            if not self.stopped:
                least += self.best
        return least

    cdef void _descend(self, Py_ssize_t step, Py_ssize_t block, double total) noexcept nogil:
        """Map the vertices from order[step] on; `total` is the sum of squares of the block so far."""
        cdef Py_ssize_t x
        cdef int v, w
        if step == self.block_start[block + 1]:
            self._close(step, block, total)
            return
        v = self.order[step]
        for x in range(self.candidate_start[v], self.candidate_start[v + 1]):
            self.nodes += 1
            if self.nodes > self.node_limit:
                self.stopped = True
            if self.nodes % 4096 == 0:
                self._look_at_clock()
            if self.stopped:
                return
            if not self.align and total + self.cost[x] >= self.best:
                return
            w = self.candidate[x]
            if self.taken[w] or not self._fits(v, w):
                continue
            self.image[v] = w
            self.taken[w] = 1
            self._descend(step + 1, block, total + self.cost[x])
            self.image[v] = -1
            self.taken[w] = 0

    cdef void _close(self, Py_ssize_t step, Py_ssize_t block, double total) noexcept nogil:
        """A block is mapped: in the fixed frame it is done, otherwise the next one follows, and a fit after the last."""
        cdef Py_ssize_t x
        cdef int v
        cdef double value
        if not self.align:
            self.best = total
            for x in range(self.block_start[block], step):
                self.best_image[self.order[x]] = self.image[self.order[x]]
            return
        for x in range(9):
            self.partial[block + 1, x] = self.partial[block, x]
        for x in range(self.block_start[block], step):
            v = self.order[x]
            if v < self.n:
                self._add(v, self.image[v], &self.partial[block + 1, 0])
        if block + 1 < self.n_blocks:
            self._descend(step, block + 1, 0.0)
            return
        value = largest(&self.partial[block + 1, 0], self.ceiling * (1 + 1e-12))
        if value > self.best:
            self.best = value
            self.best_image[:] = self.image

    cdef inline bint _fits(self, int v, int w) noexcept nogil:
        """Whether the bonds of v to mapped vertices are those of w to their images."""
        cdef Py_ssize_t x, y
        cdef int other
        for x in range(self.start[v], self.start[v + 1]):
            other = self.image[self.near[x]]
            if other < 0:
                continue
            for y in range(self.start[w], self.start[w + 1]):
                if self.near[y] == other:
                    if self.kind[y] != self.kind[x]:
                        return False
                    break
            else:
                return False
        return True

    cdef inline void _add(self, Py_ssize_t i, Py_ssize_t j, double *c) noexcept nogil:
        cdef int x, y
        for x in range(3):
            for y in range(3):
                c[3 * x + y] += self.a[i, x] * self.b[j, y]

    cdef void _look_at_clock(self) noexcept nogil:
        with gil:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                self.pending = error
                self.stopped = True
            if time.monotonic() > self.deadline:
                self.stopped = True


def _blocks(bonds, lists, level):
    """Vertices in the order of the search, in blocks that are independent of each other."""
    vertices = range(len(lists))
    if level == 1:
        return [list(vertices)]
    fixed = [v for v in vertices if len(lists[v]) == 1]
    free = [v for v in vertices if len(lists[v]) > 1]
    if level == 2 or not free:
        return [fixed + free]
    block = {v: min(lists[v]) for v in free}

    def top(v):
        while block[v] != v:
            block[v] = block[block[v]]
            v = block[v]
        return v

    for i, j, _ in bonds:
        if i in block and j in block:
            block[top(i)] = top(j)
    parts = {}
    for v in free:
        parts.setdefault(top(v), []).append(v)
    return [part for part in (fixed, *parts.values()) if part]


def _starts(lengths):
    starts = array("i", [0])
    for length in lengths:
        starts.append(starts[len(starts) - 1] + length)
    return starts


def _copy(const double[:, ::1] x):
    out = memoryview(bytearray(24 * x.shape[0])).cast("d", (x.shape[0], 3))
    cdef double[:, ::1] y = out
    y[:, :] = x
    return out


cdef double _centre(double[:, ::1] x, double *middle) noexcept nogil:
    """IN OUT x (n, 3): relative to its centroid; OUT middle (3,); returns the sum of squares."""
    cdef Py_ssize_t i
    cdef int e
    cdef double total = 0.0
    for e in range(3):
        middle[e] = 0.0
        for i in range(x.shape[0]):
            middle[e] += x[i, e] / x.shape[0]
        for i in range(x.shape[0]):
            x[i, e] -= middle[e]
            total += x[i, e] * x[i, e]
    return total
