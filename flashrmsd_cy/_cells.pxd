# cython: language_level=3, cdivision=True
"""Cells of rotations: unit quaternions seen from the centre of the sphere, on the faces of four cubes.

Opposite quaternions are one rotation, so that four faces of the eight cover all. A set of rotations about a given one is
covered by a cube on face 0 of a frame turned there.
"""

from libc.math cimport asin, atan2, cos, sqrt

from flashrmsd_cy._horn cimport horn


cdef struct Cell:
    double bound                # no mapping and no rotation of this cell gives a larger Σ a·U b
    double half                 # half the side of the cube
    double[3] at                # its centre on the face, where the coordinate `face` is 1 and all are within ±1
    double[4] q                 # the unit quaternion there
    double radius               # angle on the sphere to its farthest corner
    int face
    bint whole                  # all that is of interest in its state
    Py_ssize_t state            # choices that are made


cdef inline double term(const double *a, const double *a0, const double *b, const double *b0, const double *s,
                        const double *s0, double cd, double sd) noexcept nogil:
    """Largest p·V d for rotations V by at most the angle with cosine cd, sine sd: p = a − a0, d = (b − b0) − (s − s0)."""
    cdef double p, d, pp = 0.0, dd = 0.0, pd = 0.0, square
    cdef int e
    for e in range(3):
        p = a[e] - a0[e]
        d = (b[e] - b0[e]) - (s[e] - s0[e])
        pp += p * p
        dd += d * d
        pd += p * d
    square = pp * dd
    if pd >= 0 and pd * pd >= square * cd * cd and cd >= 0:
        return sqrt(square)
    if cd < 0 and pd >= cd * sqrt(square):
        return sqrt(square)
    square -= pd * pd
    return pd * cd + (sqrt(square) * sd if square > 0 else 0.0)


cdef inline double matrix_term(const double *m, double cd, double sd) noexcept nogil:
    """At least the largest Σ p·V d for rotations V by at most the angle with cosine cd, sine sd; IN m (3, 3) = Σ p dᵀ.

    With V by the angle θ about the axis u it is t cos θ + w·u sin θ + (1 − cos θ) uᵀSu: t the trace, w twice the axial
    vector and S the symmetric part of m, whose largest eigenvalue is bounded by its trace and its norm.
    """
    cdef double t = m[0] + m[4] + m[8], x = m[1] + m[3], y = m[2] + m[6], z = m[5] + m[7]
    cdef double norm = m[0] * m[0] + m[4] * m[4] + m[8] * m[8] + 0.5 * (x * x + y * y + z * z)
    cdef double rest = norm - t * t / 3
    cdef double s = t / 3 + (sqrt(rest * (2.0 / 3.0)) if rest > 0 else 0.0)
    cdef double w, size
    x = m[1] - m[3]
    y = m[2] - m[6]
    z = m[5] - m[7]
    w = sqrt(x * x + y * y + z * z)
    t -= s
    size = sqrt(t * t + w * w)
    return s + (size if t >= size * cd else t * cd + w * sd)


cdef inline void eighth(const Cell *cell, int i, Cell *part) noexcept nogil:
    """OUT part: one of the eight halves-in-each-direction of a cell."""
    cdef int e
    part.face = cell.face
    part.half = cell.half / 2
    part.bound = cell.bound
    part.state = cell.state
    part.whole = False
    for e in range(3):
        part.at[e] = cell.at[e] + (part.half if (i >> e) & 1 else -part.half)


cdef inline void multiply(const double *p, const double *q, double *out) noexcept nogil:
    """OUT out (4,) = p q, quaternions (w, x, y, z)."""
    out[0] = p[0] * q[0] - p[1] * q[1] - p[2] * q[2] - p[3] * q[3]
    out[1] = p[0] * q[1] + p[1] * q[0] + p[2] * q[3] - p[3] * q[2]
    out[2] = p[0] * q[2] - p[1] * q[3] + p[2] * q[0] + p[3] * q[1]
    out[3] = p[0] * q[3] + p[1] * q[2] - p[2] * q[1] + p[3] * q[0]


cdef inline void place(Cell *cell, const double *frame) noexcept nogil:
    """OUT cell.q, cell.radius, from where it is in a frame, a unit quaternion (4,)."""
    cdef double q[4]
    cdef double least = 1.0, dot, size, x
    cdef double norm = sqrt(1.0 + cell.at[0] * cell.at[0] + cell.at[1] * cell.at[1] + cell.at[2] * cell.at[2])
    cdef int i, e, axis
    for e in range(4):
        axis = e - (1 if e > cell.face else 0)
        q[e] = (1.0 if e == cell.face else cell.at[axis]) / norm
    multiply(frame, q, cell.q)
    for i in range(8):
        size = 0.0
        dot = 0.0
        for e in range(4):
            axis = e - (1 if e > cell.face else 0)
            x = 1.0 if e == cell.face else cell.at[axis] + (cell.half if (i >> axis) & 1 else -cell.half)
            size += x * x
            dot += x * q[e]
        dot /= sqrt(size)
        if dot < least:
            least = dot
    # The floor covers the digits that 1 − cos loses in tiny cells.
    cell.radius = 2.0 * asin(sqrt((1.0 - least) / 2.0)) + 3e-8


cdef inline double within(const double *c, const double *q0, double radius, double top) noexcept nogil:
    """Bound on qᵀ K(C) q for unit q within `radius` of q0, where top is the largest eigenvalue of K."""
    cdef double k[16]
    cdef double kq, here = 0.0, norm = 0.0, across, middle, reach, phase
    cdef int i, j
    horn(c, k)
    for i in range(4):
        kq = 0.0
        for j in range(4):
            kq += k[4 * i + j] * q0[j]
        here += q0[i] * kq
        norm += kq * kq
    across = sqrt(norm - here * here) if norm > here * here else 0.0
    middle = (here + top) / 2
    reach = sqrt((here - top) * (here - top) / 4 + across * across)
    phase = atan2(across, (here - top) / 2)
    if phase <= 2 * radius:
        return top if middle + reach > top else middle + reach
    here = middle + reach * cos(2 * radius - phase)
    return top if here > top else here
