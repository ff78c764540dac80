# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Linear assignment of a small square cost matrix, stored row by row."""

from libc.math cimport INFINITY


cdef struct Scratch:            # arrays of k + 1, for `assign`
    double *hu
    double *hv
    double *slack
    int *match
    int *way
    unsigned char *used


cdef inline double assign(int k, const double *cost, int *column, const Scratch *work) noexcept nogil:
    """Least total of one entry in each row and column; OUT column (k,) of each row. For k > 3 the potentials stay in work."""
    cdef double straight, crossed
    if k == 2:
        straight = cost[0] + cost[3]
        crossed = cost[1] + cost[2]
        column[0] = crossed < straight
        column[1] = 1 - column[0]
        return crossed if crossed < straight else straight
    return assign_three(cost, column) if k == 3 else assign_many(k, cost, column, work)


cdef inline double assign_three(const double *cost, int *column) noexcept nogil:
    cdef double best = INFINITY, total
    cdef int x, y, z
    for x in range(3):
        for y in range(3):
            if x != y:
                z = 3 - x - y
                total = cost[x] + cost[3 + y] + cost[6 + z]
                if total < best:
                    best = total
                    column[0] = x
                    column[1] = y
                    column[2] = z
    return best


cdef inline double assign_many(int k, const double *cost, int *out, const Scratch *work) noexcept nogil:
    """Shortest augmenting paths with potentials (Kuhn–Munkres in O(k³)); column 0 of `match` is a helper.

    The potentials are left in hu, hv (k + 1,), from 1: cost[r, c] − hu[r + 1] − hv[c + 1] is not negative.
    """
    cdef int row, column, here, there, mate
    cdef double delta, reduced, total = 0.0
    for column in range(k + 1):
        work.hu[column] = work.hv[column] = 0.0
        work.match[column] = 0
    for row in range(1, k + 1):
        work.match[0] = row
        here = 0
        for column in range(k + 1):
            work.slack[column] = INFINITY
            work.used[column] = 0
        while True:
            work.used[here] = 1
            mate = work.match[here]
            delta = INFINITY
            there = 0
            for column in range(1, k + 1):
                if work.used[column]:
                    continue
                reduced = cost[(mate - 1) * k + column - 1] - work.hu[mate] - work.hv[column]
                if reduced < work.slack[column]:
                    work.slack[column] = reduced
                    work.way[column] = here
                if work.slack[column] < delta:
                    delta = work.slack[column]
                    there = column
            for column in range(k + 1):
                if work.used[column]:
                    work.hu[work.match[column]] += delta
                    work.hv[column] -= delta
                else:
                    work.slack[column] -= delta
            here = there
            if work.match[here] == 0:
                break
        while here != 0:
            there = work.way[here]
            work.match[here] = work.match[there]
            here = there
    for column in range(1, k + 1):
        row = work.match[column] - 1
        out[row] = column - 1
        total += cost[row * k + column - 1]
    return total
