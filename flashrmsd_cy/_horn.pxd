# cython: language_level=3, cdivision=True
"""Horn's 4 × 4 matrix K(C) of a 3 × 3 covariance C = Σ a bᵀ, and its largest eigenvalue.

tr(U Cᵀ) = qᵀ K(C) q for the rotation U of the unit quaternion q: the largest eigenvalue of K(C) is the best a rotation can
do (Horn, J. Opt. Soc. Am. A 4, 629 (1987), doi:10.1364/JOSAA.4.000629). Matrices are stored row by row.
"""

from libc.math cimport fabs, sqrt


cdef inline void turn(const double *u, const double *x, double *out) noexcept nogil:
    """OUT out (3,) = u x."""
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


cdef inline void horn(const double *c, double *k) noexcept nogil:
    """OUT k (4, 4): tr(U Cᵀ) = qᵀ K q for the rotation U of the unit quaternion q = (w, x, y, z); IN c (3, 3) = Σ a bᵀ."""
    k[0] = c[0] + c[4] + c[8]
    k[5] = c[0] - c[4] - c[8]
    k[10] = c[4] - c[0] - c[8]
    k[15] = c[8] - c[0] - c[4]
    k[1] = k[4] = c[7] - c[5]
    k[2] = k[8] = c[2] - c[6]
    k[3] = k[12] = c[3] - c[1]
    k[6] = k[9] = c[3] + c[1]
    k[7] = k[13] = c[2] + c[6]
    k[11] = k[14] = c[7] + c[5]


cdef inline bint exceeds(const double *c, double t) noexcept nogil:
    """Whether the largest eigenvalue of K(C) may exceed t: false only if t·1 − K has four positive pivots."""
    cdef double k[16]
    cdef double d0, d1, d2, d3, l1, l2, l3, m2, m3, e22, e23, e33
    horn(c, k)
    d0 = t - k[0]
    if d0 <= 0:
        return True
    l1 = -k[1] / d0
    l2 = -k[2] / d0
    l3 = -k[3] / d0
    d1 = t - k[5] + l1 * k[1]
    if d1 <= 0:
        return True
    m2 = (-k[6] + l1 * k[2]) / d1
    m3 = (-k[7] + l1 * k[3]) / d1
    e22 = t - k[10] + l2 * k[2] - m2 * m2 * d1
    e23 = -k[11] + l2 * k[3] - m2 * m3 * d1
    e33 = t - k[15] + l3 * k[3] - m3 * m3 * d1
    if e22 <= 0:
        return True
    return e33 - e23 * e23 / e22 <= 0


cdef inline double eigen(const double *c, double *q) noexcept nogil:
    """Largest eigenvalue of K(C), safe for multiple roots; OUT q (4,) its unit vector."""
    cdef double second
    return two_eigen(c, q, &second)


cdef inline double two_eigen(const double *c, double *q, double *second) noexcept nogil:
    """Largest eigenvalue of K(C) by cyclic Jacobi rotations; OUT q (4,) its unit vector, second the one below."""
    cdef double k[16]
    cdef double v[16]
    cdef double theta, t, cs, sn, x, y, off, scale
    cdef int sweep, i, j, m, best
    horn(c, k)
    for i in range(16):
        v[i] = 0.0
    for i in range(4):
        v[5 * i] = 1.0
    for sweep in range(30):
        off = 0.0
        scale = 0.0
        for i in range(4):
            scale += k[5 * i] * k[5 * i]
            for j in range(i + 1, 4):
                off += k[4 * i + j] * k[4 * i + j]
        if off <= 1e-32 * scale or off == 0.0:
            break
        for i in range(3):
            for j in range(i + 1, 4):
                if k[4 * i + j] == 0.0:
                    continue
                theta = (k[5 * j] - k[5 * i]) / (2.0 * k[4 * i + j])
                t = 1.0 / (fabs(theta) + sqrt(theta * theta + 1.0))
                if theta < 0:
                    t = -t
                cs = 1.0 / sqrt(t * t + 1.0)
                sn = t * cs
                for m in range(4):
                    x = k[4 * m + i]
                    y = k[4 * m + j]
                    k[4 * m + i] = cs * x - sn * y
                    k[4 * m + j] = sn * x + cs * y
                for m in range(4):
                    x = k[4 * i + m]
                    y = k[4 * j + m]
                    k[4 * i + m] = cs * x - sn * y
                    k[4 * j + m] = sn * x + cs * y
                for m in range(4):
                    x = v[4 * m + i]
                    y = v[4 * m + j]
                    v[4 * m + i] = cs * x - sn * y
                    v[4 * m + j] = sn * x + cs * y
    best = 0
    for i in range(1, 4):
        if k[5 * i] > k[5 * best]:
            best = i
    second[0] = k[0] if best != 0 else k[5]
    for i in range(4):
        q[i] = v[4 * i + best]
        if i != best and k[5 * i] > second[0]:
            second[0] = k[5 * i]
    return k[5 * best]


cdef inline double largest(const double *c, double start) noexcept nogil:
    """Largest eigenvalue of K(C) by Newton's method on its quartic (QCP: Theobald 2005), from above: start ≥ it."""
    cdef double k[16]
    cdef double q[4]
    cdef double c2, c1, c0, x, x2, p, dp, step, a, b, d, e, f, g
    cdef int i
    horn(c, k)
    c2 = 0.0
    for i in range(9):
        c2 += c[i] * c[i]
    if c2 == 0.0:
        return 0.0
    c1 = -8.0 * (c[0] * (c[4] * c[8] - c[5] * c[7]) - c[1] * (c[3] * c[8] - c[5] * c[6])
                 + c[2] * (c[3] * c[7] - c[4] * c[6]))
    a = k[0] * k[5] - k[1] * k[1]
    b = k[0] * k[6] - k[1] * k[2]
    d = k[0] * k[7] - k[1] * k[3]
    e = k[1] * k[6] - k[5] * k[2]
    f = k[1] * k[7] - k[5] * k[3]
    g = k[2] * k[7] - k[6] * k[3]
    c0 = (a * (k[10] * k[15] - k[11] * k[11]) - b * (k[6] * k[15] - k[7] * k[11]) + d * (k[6] * k[11] - k[7] * k[10])
          + e * (k[2] * k[15] - k[3] * k[11]) - f * (k[2] * k[11] - k[3] * k[10]) + g * (k[2] * k[7] - k[3] * k[6]))
    x = sqrt(3.0 * c2)          # σ1 + σ2 + σ3 is at most √3 times the Frobenius norm
    if start < x:
        x = start
    for i in range(50):
        x2 = x * x
        p = (x2 - 2.0 * c2) * x2 + c1 * x + c0
        dp = 4.0 * (x2 - c2) * x + c1
        if dp <= 1e-4 * c2 * x:      # near a multiple root Newton loses half its digits
            break
        step = p / dp
        x -= step
        if fabs(step) <= 1e-14 * x:
            return x
    return eigen(c, q)


cdef inline double nuclear_bound(const double *c) noexcept nogil:
    """At least σ1 + σ2 + σ3 of C, and so at least the largest eigenvalue of K(C); exact for rank one.

    (Σσ)² = Σσ² + 2 Σσσ', where Σσσ' is at most √3 times the Frobenius norm of the cofactors.
    """
    cdef double square = 0.0, cofactors = 0.0, minor
    cdef int i, x, y
    for i in range(9):
        square += c[i] * c[i]
    for x in range(3):
        for y in range(3):
            minor = (c[3 * ((x + 1) % 3) + (y + 1) % 3] * c[3 * ((x + 2) % 3) + (y + 2) % 3]
                     - c[3 * ((x + 1) % 3) + (y + 2) % 3] * c[3 * ((x + 2) % 3) + (y + 1) % 3])
            cofactors += minor * minor
    return sqrt(square + 2.0 * sqrt(3.0 * cofactors)) * (1 + 1e-12)


cdef inline void rotation_of(const double *q, double *u) noexcept nogil:
    """OUT u (3, 3): the rotation of the unit quaternion q = (w, x, y, z)."""
    cdef double w = q[0], x = q[1], y = q[2], z = q[3]
    u[0] = w * w + x * x - y * y - z * z
    u[4] = w * w - x * x + y * y - z * z
    u[8] = w * w - x * x - y * y + z * z
    u[1] = 2 * (x * y - w * z)
    u[3] = 2 * (x * y + w * z)
    u[2] = 2 * (x * z + w * y)
    u[6] = 2 * (x * z - w * y)
    u[5] = 2 * (y * z - w * x)
    u[7] = 2 * (y * z + w * x)
