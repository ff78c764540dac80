# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""From a molecular graph to a plan: every isomorphism, folded into a small graph of choices.

A subproblem (node) is "map the connected piece A onto the piece B, given the images of the atoms A hangs on". Colour
refinement tells which atoms have only one possible image; if there are none, one atom of the smallest class is mapped
to each of its candidates in turn (branches). What is left falls into components. Components that may take each other's
place form a group: an assignment problem whose costs are the solved subproblems (component, component). Subproblems are
remembered by (A, B, images of the anchors), so trees, salts and dendrimers need polynomially many although the number
of isomorphisms is exponential (separator dynamic programming). Structure alone decides all this: a plan is made once
per molecule, and a pair of conformers is evaluated by one pass over it from the leaves to the root.
"""

from math import factorial

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free

from flashrmsd_cy._graph cimport Colouring, Graph

from flashrmsd_cy._graph import PlanLimitError, begin

DEF OUTSIDE = -1
NOTHING = -1


@cython.final
@cython.freelist(64)
cdef class Group:
    """k pieces that may be exchanged: ``nodes[r * k + c]`` is the subproblem (piece r of a, piece c of b)."""

    cdef readonly Py_ssize_t size
    cdef readonly tuple nodes, atoms_a, atoms_b

    def __init__(self, Py_ssize_t size, tuple nodes, tuple atoms_a, tuple atoms_b):
        self.size, self.nodes, self.atoms_a, self.atoms_b = size, nodes, atoms_a, atoms_b


@cython.final
@cython.freelist(64)
cdef class Branch:
    """One way to begin a subproblem: these atoms are mapped, these groups remain, independent of each other."""

    cdef readonly tuple pairs, groups

    def __init__(self, tuple pairs, tuple groups):
        self.pairs, self.groups = pairs, groups


@cython.final
@cython.freelist(64)
cdef class Node:
    """A subproblem: map `atoms_a` onto `atoms_b` (sorted); `count` is the number of ways."""

    cdef readonly tuple atoms_a, atoms_b, branches
    cdef readonly object count

    def __init__(self, tuple atoms_a, tuple atoms_b, tuple branches, count):
        self.atoms_a, self.atoms_b, self.branches, self.count = atoms_a, atoms_b, branches, count


@cython.final
cdef class _Family:
    """Pieces of a (rows) and of b (columns) that hang on the same mapped atoms and are isomorphic to each other."""

    cdef tuple anchors
    cdef list rows, columns

    def __init__(self, tuple anchors, list rows, list columns):
        self.anchors, self.rows, self.columns = anchors, rows, columns


cdef class Planner:
    """Builds the nodes, children before parents; ``nodes[-1]`` is the root."""

    cdef Graph a, b
    cdef readonly list nodes
    cdef bint first_only, same
    cdef Py_ssize_t n
    cdef dict known
    cdef object node_limit
    cdef long long calls
    cdef Colouring work
    cdef int *base      # (2n,) colours of all atoms
    cdef int *image     # (2n,) 1 + the partner of a mapped atom of a; 1 at a mapped atom of b
    cdef int *count     # (2n,) scratch, zero when not in use
    cdef int *partner   # (2n,) scratch
    cdef int *stack     # (2n,) scratch

    def __cinit__(self, Graph a, Graph b, bint first_only=False, node_limit=None, deadline=None):
        self.a, self.b, self.first_only, self.node_limit = a, b, first_only, node_limit
        self.same = a is b
        self.n = a.n
        self.nodes, self.known, self.calls = [], {}, 0
        if a.n == b.n:
            self.work = Colouring(a, b, deadline)
            self.base = <int *>calloc(10 * a.n + 1, sizeof(int))
            if self.base == NULL:
                raise MemoryError
            self.image, self.count = self.base + 2 * a.n, self.base + 4 * a.n
            self.partner, self.stack = self.base + 6 * a.n, self.base + 8 * a.n

    def __dealloc__(self):
        free(self.base)

    def build(self):
        """Make all nodes; False if the graphs are not isomorphic.

        Raises
        ------
        PlanLimitError
            If `node_limit` or `deadline` (``time.monotonic()``) is passed.
        """
        cdef Py_ssize_t v
        if self.a.n != self.b.n or self.a.n_bonds != self.b.n_bonds:
            return False
        self.work.check()
        begin(self.work, self.a, self.b)
        cdef tuple everything = tuple(range(self.n)), saved
        saved = self._refined(everything, everything, self.same)
        if saved is None:
            return False
        for v in range(self.n):
            self.base[v] = (<int *>PyBytes_AS_STRING(saved[0]))[v]
            self.base[self.n + v] = (<int *>PyBytes_AS_STRING(saved[1]))[v]
        branches = self._expand(everything, everything, saved[0], saved[1], (), False)
        if not branches:
            return False
        self._store(everything, everything, branches)
        return True

    cdef tuple _refined(self, tuple a, tuple b, bint alone):
        """Refine from the colours that are set, and clear them: colours of the atoms of a and of b, or None."""
        cdef Py_ssize_t m = len(a), x
        cdef int n = <int>self.n
        cdef int *colour = self.work.colour
        cdef bint found
        cdef bytes saved_a, saved_b
        for x in range(m):
            self.work.order[x] = <int>a[x]
            if alone:
                colour[n + <int>b[x]] = OUTSIDE
            else:
                self.work.order[m + x] = n + <int>b[x]
        found = self.work.refine(m if alone else 2 * m, not alone)
        saved_a = PyBytes_FromStringAndSize(NULL, m * sizeof(int))
        for x in range(m):
            (<int *>PyBytes_AS_STRING(saved_a))[x] = colour[<int>a[x]]
            colour[<int>a[x]] = OUTSIDE
        if alone:
            return saved_a, saved_a
        saved_b = PyBytes_FromStringAndSize(NULL, m * sizeof(int))
        for x in range(m):
            (<int *>PyBytes_AS_STRING(saved_b))[x] = colour[n + <int>b[x]]
            colour[n + <int>b[x]] = OUTSIDE
        return (saved_a, saved_b) if found else None

    cdef Py_ssize_t _solve(self, tuple a, tuple b, tuple anchors) except -2:
        cdef tuple key = (a, b, anchors), saved, branches = ()
        cdef Py_ssize_t x
        cdef int place = 2 * <int>self.n, i, j
        cdef bint alone
        cdef int *colour = self.work.colour
        if len(a) != len(b):
            return NOTHING
        known = self.known.get(key)
        if known is not None:
            return known
        self._check_limits()
        if len(a) == 1:
            if self._fits(<int>a[0], <int>b[0], anchors):
                branches = (Branch(((a[0], b[0]),), ()),)
        else:
            alone = self.same and a == b
            for pair in anchors:
                i, j = pair
                alone = alone and i == j
                colour[i] = colour[self.n + j] = place
                place += 1
            for x in range(len(a)):
                colour[<int>a[x]] = self.base[<int>a[x]]
                colour[self.n + <int>b[x]] = self.base[self.n + <int>b[x]]
            saved = self._refined(a, b, alone)
            for pair in anchors:
                i, j = pair
                colour[i] = colour[self.n + j] = OUTSIDE
            if saved is not None:
                branches = self._expand(a, b, saved[0], saved[1], anchors, True)
        known = self._store(a, b, branches) if branches else NOTHING
        self.known[key] = known
        return known

    cdef bint _fits(self, int i, int j, tuple anchors) except -1:
        """Whether atoms i and j are of one colour and have the same bonds to the anchors."""
        if self.base[i] != self.base[self.n + j]:
            return False
        for pair in anchors:
            if _bond(self.a, i, <int>pair[0]) != _bond(self.b, j, <int>pair[1]):
                return False
        return True

    cdef tuple _expand(self, tuple a, tuple b, bytes saved_a, bytes saved_b, tuple anchors, bint connected):
        cdef Py_ssize_t m = len(a), x, best = -1
        cdef int *of_a = <int *>PyBytes_AS_STRING(saved_a)
        cdef int *of_b = <int *>PyBytes_AS_STRING(saved_b)
        cdef int least = 0, degree, widest = 0
        cdef list forced = [], branches = [], starts
        for x in range(m):
            self.count[of_a[x]] += 1
            self.partner[of_b[x]] = <int>b[x]
        for x in range(m):
            if self.count[of_a[x]] == 1:
                forced.append((a[x], self.partner[of_a[x]]))
                continue
            degree = self.a.start[<int>a[x] + 1] - self.a.start[<int>a[x]]
            if best < 0 or self.count[of_a[x]] < least or (self.count[of_a[x]] == least and degree > widest):
                best, least, widest = x, self.count[of_a[x]], degree
        for x in range(m):
            self.count[of_a[x]] = 0
        if forced or (not connected and not self._is_connected(a)):
            starts = [tuple(forced)]
        else:
            starts = [((a[best], b[x]),) for x in range(m) if of_b[x] == of_a[best]]
        for pairs in starts:
            branch = self._branch(a, b, of_a, of_b, anchors, pairs)
            if branch is not None:
                branches.append(branch)
                if self.first_only:
                    break
        return tuple(branches)

    cdef bint _is_connected(self, tuple a):
        cdef Py_ssize_t x
        cdef bint connected
        for x in range(len(a)):
            self.work.colour[<int>a[x]] = 0
        connected = len(self._component(<int>a[0])[0]) == len(a)
        for x in range(len(a)):
            self.work.colour[<int>a[x]] = OUTSIDE
        return connected

    cdef tuple _component(self, int start):
        """(vertices, colours, mapped atoms they hang on), each sorted, of the component of a vertex; its colours go."""
        cdef Py_ssize_t top = 1, x
        cdef int v, other
        cdef int *colour = self.work.colour
        cdef int first = <int>self.n if start >= self.n else 0
        cdef list vertices = [start - first], colours = [colour[start]], hangs_on = []
        colour[start] = OUTSIDE
        self.stack[0] = start
        while top > 0:
            top -= 1
            v = self.stack[top]
            for x in range(self.work.start[v], self.work.start[v + 1]):
                other = self.work.near[x]
                if colour[other] != OUTSIDE:
                    vertices.append(other - first)
                    colours.append(colour[other])
                    colour[other] = OUTSIDE
                    self.stack[top] = other
                    top += 1
                elif self.image[other] > 0 and other - first not in hangs_on:
                    hangs_on.append(other - first)
        if len(vertices) > 1:
            vertices.sort()
            colours.sort()
        hangs_on.sort()
        return tuple(vertices), tuple(colours), tuple(hangs_on)

    cdef object _branch(self, tuple a, tuple b, int *of_a, int *of_b, tuple anchors, tuple pairs):
        cdef Py_ssize_t x
        cdef int n = <int>self.n, i, j
        cdef int *colour = self.work.colour
        cdef dict waiting = {}
        cdef list pieces = [], families = []
        cdef tuple found, hangs_on
        cdef _Family family
        for x in range(len(a)):
            colour[<int>a[x]] = of_a[x]
            colour[n + <int>b[x]] = of_b[x]
        for pair in anchors:
            i, j = pair
            self.image[i], self.image[n + j] = 1 + j, 1
        for pair in pairs:
            i, j = pair
            self.image[i], self.image[n + j] = 1 + j, 1
            colour[i] = colour[n + j] = OUTSIDE
        for x in range(len(b)):
            j = b[x]
            if colour[n + j] != OUTSIDE:
                found = self._component(n + j)
                waiting.setdefault((found[2], found[1]), []).append(found[0])
        for x in range(len(a)):
            i = a[x]
            if colour[i] != OUTSIDE:
                found = self._component(i)
                hangs_on = tuple([(v, self.image[<int>v] - 1) for v in found[2]])
                targets = tuple(sorted([target for _, target in hangs_on]))
                pieces.append((found[0], hangs_on, waiting.get((targets, found[1]))))
        for pair in anchors + pairs:
            i, j = pair
            self.image[i] = self.image[n + j] = 0
        # From here on the scratch is free for the subproblems.
        for piece, hangs_on, candidates in pieces:
            if candidates is None or not self._join(piece, hangs_on, candidates, families):
                return None
        for family in families:
            if len(family.rows) != len(family.columns):
                return None
        return Branch(pairs, tuple([group for family in families for group in self._groups(family)]))

    cdef bint _join(self, tuple piece, tuple anchors, list candidates, list families) except -1:
        """Add a piece of a to the family whose places it can take, or found one; False if it fits nowhere."""
        cdef _Family family
        for family in families:
            if family.anchors == anchors and self._solve(piece, family.columns[0], anchors) != NOTHING:
                family.rows.append(piece)
                return True
        columns = [candidate for candidate in candidates if self._solve(piece, candidate, anchors) != NOTHING]
        if columns:
            families.append(_Family(anchors, [piece], columns))
        return bool(columns)

    cdef list _groups(self, _Family family):
        rows, columns, anchors = family.rows, family.columns, family.anchors
        if self.first_only:
            return [Group(1, (self._solve(r, c, anchors),), r, c) for r, c in zip(rows, columns, strict=True)]
        nodes = tuple([self._solve(r, c, anchors) for r in rows for c in columns])
        if len(rows) == 1:
            return [Group(1, nodes, rows[0], columns[0])]
        atoms_a = tuple(sorted([x for row in rows for x in row]))
        return [Group(len(rows), nodes, atoms_a, tuple(sorted([x for column in columns for x in column])))]

    cdef Py_ssize_t _store(self, tuple a, tuple b, tuple branches) except -2:
        # Pieces of one group are isomorphic to each other, so a group has k! arrangements times the ways on a diagonal.
        cdef Branch branch
        cdef Group group
        cdef Py_ssize_t r
        count = 0
        for branch in branches:
            ways = 1
            for group in branch.groups:
                if group.size > 1:
                    ways *= factorial(group.size)
                for r in range(group.size):
                    ways *= (<Node>self.nodes[<Py_ssize_t>group.nodes[r * group.size + r]]).count
            count += ways
        self.nodes.append(Node(a, b, branches, count))
        return len(self.nodes) - 1

    cdef bint _check_limits(self) except -1:
        self.calls += 1
        if self.node_limit is not None and self.calls > self.node_limit:
            raise PlanLimitError
        return self.work.check()


cdef long long _bond(Graph graph, int i, int j) noexcept:
    """The type of a bond, or something that is no type."""
    cdef Py_ssize_t x
    for x in range(graph.start[i], graph.start[i + 1]):
        if graph.near[x] == j:
            return graph.kind[x]
    return <long long>1 << 40
