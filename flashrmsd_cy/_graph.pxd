cdef class Graph:
    cdef readonly tuple labels
    cdef readonly Py_ssize_t n_bonds
    cdef Py_ssize_t n
    # neighbours of vertex v: near[start[v]:start[v + 1]], ascending, by bonds of type kind
    cdef int[::1] start, near, kind


cdef class Colouring:
    cdef Py_ssize_t n           # vertices of a; vertex v of b is n + v here
    cdef int[::1] start, near, kind
    cdef int *colour            # (2n,) of the vertices that are looked at; OUTSIDE for all others
    cdef int *order             # (2n,) the vertices that are refined
    cdef int *fresh
    cdef int *length            # (2n,) number of entries of a signature, which begin where the neighbours do
    cdef long long *signature
    cdef object deadline
    cdef bint refine(self, Py_ssize_t m, bint both) except -1
    cdef void _sign(self, int v) noexcept nogil
    cdef int _compare(self, int v, int w) noexcept nogil
    cdef void _sort(self, Py_ssize_t first, Py_ssize_t last, bint by_colour) noexcept nogil
    cdef int _round(self, Py_ssize_t m, bint both) noexcept nogil
    cdef bint check(self) except -1
