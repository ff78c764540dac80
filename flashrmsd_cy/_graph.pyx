# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Labelled molecular graphs and joint colour refinement (1-WL).

Two atoms may only be exchanged by an isomorphism if they get the same colour. Colours of two graphs are comparable
because both are refined together (Weisfeiler & Leman, 1968). The colour of a vertex is the place of the first vertex of
its class when all are sorted; classes are split by the sorted colours and bonds of their vertices' neighbours, compared
in full, until nothing changes.
"""

import time
from array import array

from cpython.exc cimport PyErr_CheckSignals
from libc.stdlib cimport free, malloc

DEF OUTSIDE = -1


class PlanLimitError(Exception):
    """The plan needed more subproblems or more time than it was given."""


cdef class Graph:
    """A molecular graph: one hashable label per atom, one integer label per bond (i, j, label), |label| < 2³¹."""

    def __init__(self, labels, bonds):
        cdef Py_ssize_t x, y, i, j, v
        cdef int other, kind
        self.labels = tuple(labels)
        self.n = len(self.labels)
        bonds = list(bonds)
        self.n_bonds = len(bonds)
        self.start = array("i", bytes(4 * (self.n + 1)))
        self.near = array("i", bytes(8 * self.n_bonds + 4))
        self.kind = array("i", bytes(8 * self.n_bonds + 4))
        for i, j, kind in bonds:
            self.start[i] += 1
            self.start[j] += 1
        for x in range(self.n):
            self.start[x + 1] += self.start[x]
        # The starts are moved back as the rows fill; sorted rows, so that nothing depends on the order of bond lines.
        for i, j, kind in bonds:
            self.start[i] -= 1
            self.near[self.start[i]], self.kind[self.start[i]] = <int>j, kind
            self.start[j] -= 1
            self.near[self.start[j]], self.kind[self.start[j]] = <int>i, kind
        self.start[self.n] = 2 * self.n_bonds
        for v in range(self.n):
            for x in range(self.start[v] + 1, self.start[v + 1]):
                other, kind, y = self.near[x], self.kind[x], x
                while y > self.start[v] and self.near[y - 1] > other:
                    self.near[y], self.kind[y] = self.near[y - 1], self.kind[y - 1]
                    y -= 1
                self.near[y], self.kind[y] = other, kind

    def __len__(self):
        return self.n

    def __reduce__(self):
        return Graph, (self.labels, self.bonds())

    def bonds(self):
        """Every bond once, (i, j, label) with i < j, sorted."""
        cdef Py_ssize_t v, x
        return [
            (v, self.near[x], self.kind[x])
            for v in range(self.n) for x in range(self.start[v], self.start[v + 1]) if v < self.near[x]
        ]

    def same_as(self, Graph other):
        """Whether labels and bonds agree atom by atom."""
        cdef Py_ssize_t x
        if self.n_bonds != other.n_bonds or self.labels != other.labels:
            return False
        for x in range(self.n):
            if self.start[x] != other.start[x]:
                return False
        for x in range(2 * self.n_bonds):
            if self.near[x] != other.near[x] or self.kind[x] != other.kind[x]:
                return False
        return True

    def arrays(self):
        """The compressed rows: (start, near, kind), int32."""
        return self.start, self.near, self.kind


cdef class Colouring:
    """Working memory for the refinement of two graphs together."""

    def __cinit__(self, Graph a, Graph b, deadline=None):
        cdef Py_ssize_t v, x, edges_a = 2 * a.n_bonds, edges = 2 * (a.n_bonds + b.n_bonds), size
        self.n = a.n
        size = a.n + b.n
        self.deadline = deadline
        self.colour = <int *>malloc((4 * size + 1) * sizeof(int))
        self.signature = <long long *>malloc((edges + 1) * sizeof(long long))
        if self.colour == NULL or self.signature == NULL:
            raise MemoryError
        self.order, self.fresh, self.length = self.colour + size, self.colour + 2 * size, self.colour + 3 * size
        for v in range(size):
            self.colour[v] = OUTSIDE
        self.start = array("i", bytes(4 * (size + 1)))
        self.near, self.kind = array("i", bytes(4 * edges + 4)), array("i", bytes(4 * edges + 4))
        for v in range(a.n):
            self.start[v] = a.start[v]
        for v in range(b.n + 1):
            self.start[a.n + v] = <int>edges_a + b.start[v]
        for x in range(edges_a):
            self.near[x], self.kind[x] = a.near[x], a.kind[x]
        for x in range(edges - edges_a):
            self.near[edges_a + x], self.kind[edges_a + x] = <int>a.n + b.near[x], b.kind[x]

    def __dealloc__(self):
        free(self.colour)
        free(self.signature)

    cdef bint refine(self, Py_ssize_t m, bint both) except -1:
        """Refine the vertices order[:m] from the colours they have until nothing changes.

        With vertices of both graphs (`both`), False if their colours do not agree in number.
        """
        cdef Py_ssize_t x, first
        cdef int changed
        self._sort(0, m, True)
        first = 0
        for x in range(m):
            if self.colour[self.order[x]] != self.colour[self.order[first]]:
                first = x
            self.fresh[self.order[x]] = <int>first
        for x in range(m):
            self.colour[self.order[x]] = self.fresh[self.order[x]]
        while True:
            with nogil:
                changed = self._round(m, both)
            if changed <= 0:
                return changed == 0
            if m > 500:
                self.check()

    cdef int _round(self, Py_ssize_t m, bint both) noexcept nogil:
        """1 if a class was split, 0 if not, -1 if a class has more vertices of one graph than of the other."""
        cdef Py_ssize_t first = 0, last, x
        cdef int changed = 0, of_a, c
        while first < m:
            last = first
            of_a = 0
            while last < m and self.colour[self.order[last]] == first:
                of_a += self.order[last] < self.n
                last += 1
            if both and 2 * of_a != last - first:
                return -1
            self.fresh[self.order[first]] = <int>first
            if last - first > 1:
                for x in range(first, last):
                    self._sign(self.order[x])
                self._sort(first, last, False)
                c = <int>first
                self.fresh[self.order[first]] = c
                for x in range(first + 1, last):
                    if self._compare(self.order[x - 1], self.order[x]) != 0:
                        c = <int>x
                        changed = 1
                    self.fresh[self.order[x]] = c
            first = last
        if changed:
            for x in range(m):
                self.colour[self.order[x]] = self.fresh[self.order[x]]
        return changed

    cdef void _sign(self, int v) noexcept nogil:
        """The sorted (bond, colour) of the neighbours that are looked at."""
        cdef Py_ssize_t x, y, begin = self.start[v], end = begin
        cdef long long entry
        for x in range(self.start[v], self.start[v + 1]):
            if self.colour[self.near[x]] == OUTSIDE:
                continue
            entry = <long long>self.kind[x] * 4294967296LL + self.colour[self.near[x]]
            y = end
            while y > begin and self.signature[y - 1] > entry:
                self.signature[y] = self.signature[y - 1]
                y -= 1
            self.signature[y] = entry
            end += 1
        self.length[v] = <int>(end - begin)

    cdef int _compare(self, int v, int w) noexcept nogil:
        cdef int x
        cdef long long *p = self.signature + self.start[v]
        cdef long long *q = self.signature + self.start[w]
        if self.length[v] != self.length[w]:
            return -1 if self.length[v] < self.length[w] else 1
        for x in range(self.length[v]):
            if p[x] != q[x]:
                return -1 if p[x] < q[x] else 1
        return 0

    cdef void _sort(self, Py_ssize_t first, Py_ssize_t last, bint by_colour) noexcept nogil:
        """Sort order[first:last] by colour or by signature (Shell's method: no recursion, no memory)."""
        cdef Py_ssize_t gap = 1, x, y
        cdef int v, sign
        while gap < (last - first) // 3:
            gap = 3 * gap + 1
        while gap > 0:
            for x in range(first + gap, last):
                v = self.order[x]
                y = x
                while y - gap >= first:
                    if by_colour:
                        sign = self.colour[self.order[y - gap]] - self.colour[v]
                    else:
                        sign = self._compare(self.order[y - gap], v)
                    if sign <= 0:
                        break
                    self.order[y] = self.order[y - gap]
                    y -= gap
                self.order[y] = v
            gap //= 3

    cdef bint check(self) except -1:
        """Raise PlanLimitError after the deadline (``time.monotonic()``), KeyboardInterrupt after Ctrl-C."""
        PyErr_CheckSignals()
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise PlanLimitError
        return True


def begin(Colouring work, Graph a, Graph b):
    """Colour all vertices by label and number of neighbours, numbered alike in both graphs."""
    cdef Py_ssize_t v
    cdef dict table = {}
    for graph, first in ((a, 0), (b, a.n)):
        v = first
        for degree, label in zip(_degrees(graph), (<Graph>graph).labels, strict=True):
            work.colour[v] = table.setdefault((label, degree), len(table))
            v += 1


cdef list _degrees(Graph graph):
    cdef Py_ssize_t v
    return [graph.start[v + 1] - graph.start[v] for v in range(graph.n)]


def colours(Graph graph, bint refined):
    """A colour for each atom: by label and number of neighbours, or refined until stable."""
    cdef Colouring work = Colouring(graph, graph)
    cdef Py_ssize_t v
    begin(work, graph, graph)
    if refined:
        for v in range(graph.n):
            work.order[v] = <int>v
            work.colour[graph.n + v] = OUTSIDE
        work.refine(graph.n, False)
    return [work.colour[v] for v in range(graph.n)]


def difference(Graph a, Graph b):
    """The first plain difference between two graphs in words, or None if counts and colours agree."""
    if a.n != b.n:
        return f"the first has {a.n} atoms, the second {b.n}"
    labels_a, labels_b = _counted(a.labels), _counted(b.labels)
    if labels_a != labels_b:
        label = min({k for k in {**labels_a, **labels_b} if labels_a.get(k) != labels_b.get(k)}, key=repr)
        return (f"the first has {labels_a.get(label, 0)} atoms labelled {label!r}, the second "
                f"{labels_b.get(label, 0)}")
    kinds_a, kinds_b = (_counted(kind for _, _, kind in graph.bonds()) for graph in (a, b))
    if kinds_a != kinds_b:
        kind = min({k for k in {**kinds_a, **kinds_b} if kinds_a.get(k) != kinds_b.get(k)})
        words = f" of type {kind}" if len({**kinds_a, **kinds_b}) > 1 else ""
        return f"the first has {kinds_a.get(kind, 0)} bonds{words}, the second {kinds_b.get(kind, 0)}"
    cdef Colouring work = Colouring(a, b)
    cdef Py_ssize_t v
    begin(work, a, b)
    for v in range(2 * a.n):
        work.order[v] = <int>v
    if not work.refine(2 * a.n, True):
        return "elements and bonds agree in number, but atoms have different surroundings (other connectivity)"
    return None


def _counted(values):
    count = {}
    for value in values:
        count[value] = count.get(value, 0) + 1
    return count
