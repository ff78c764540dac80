# Minimised RMSD of very symmetric molecules: branch and bound over choices of the plan and over rotations together.
#
# What is sought is the largest Σ a·U b over maps and rotations U. A `State` has made some choices of the plan, a cell is a
# set of rotations; a pair of both is split, by the next choice or into smaller cells, until a bound shows that it holds
# nothing better than what is known. For the rotation in the middle of a cell the best completion of a state, `star`, is one
# pass over the open part of the plan. Over the cell, its quadratic form is bounded exactly, and what any other completion
# can be better is bounded choice by choice. Large choices (which map of a cage) are made early, so that each state moves
# nearly as a rigid body; small ones (the hydrogens of a methyl) are left to the bounds until few maps remain, which are
# then simply listed.
#
# Included by `_search.pyx`, which imports what is used here.

cdef enum:
    MOST_LISTED = 30            # maps of a state in a cell that are listed instead of splitting it
    MOST_TRIED = 3_000          # choices on the way to them
    MOST_CLIMBS = 3             # starts from different states
cdef long long GIVE_UP = 1 << 59   # so large is no counter of rows: all threads are told to stop
cdef double WIDE = 0.5          # in cells with a larger radius no gains are computed
cdef double AROUND = 1.0        # rotations of interest within this angle (on the sphere) of one are covered by one cell
cdef double SHARE = 0.4         # of the possible gain: one choice with more of it is made, else the cell is split


cdef struct Fit:                # one pair, centred, and how far its search has come
    const double *a             # (n, 3)
    const double *b             # (n, 3)
    int *best_map               # (n,) the best mapping so far
    double best                 # its Σ a·U b over the best rotation
    double ceiling              # (Σ |a|² + Σ |b|²) / 2
    double upper                # nothing is better than this
    double goal                 # the search may end when `best` reaches it
    double deadline
    long long steps
    long long step_limit
    bint stopped                # by a limit
    bint enough                 # the goal is reached


cdef struct State:              # some choices of a plan are made, others are open
    double[9] cov               # covariance of what is mapped
    double[9] form              # the same and the mean over all maps of what is open
    double top                  # largest eigenvalue of K(form)
    double slack                # how much more the open choices can give
    double[4] frame             # where its cells are
    int open                    # linked list of groups
    int fixed                   # linked list of chosen branches


@cython.final
cdef class Watch:
    """Looks up now and then, whether time is over, the user interrupts, or another thread gave up."""

    cdef object pending         # the exception to raise when the search has ended
    cdef long long *counter     # of the threads that share the work, or NULL

    cdef void look(self, Fit *pair) noexcept nogil:
        with gil:
            try:
                PyErr_CheckSignals()
            except BaseException as error:
                self.pending = error
                pair.stopped = True
            if time.monotonic() > pair.deadline:
                pair.stopped = True
            if self.counter != NULL and self.counter[0] >= GIVE_UP:
                pair.stopped = True


cdef inline double bar(const Fit *pair) noexcept nogil:
    """What must be exceeded to be of interest: the incumbent, or the goal if only that is asked for."""
    return pair.goal if pair.best < pair.goal < INFINITY else pair.best


@cython.final
cdef class Rotations:
    """A plan and the working memory of one search."""

    cdef object plan
    cdef Py_ssize_t n, n_nodes, n_branches, n_groups, n_sets_a, n_sets_b, n_leaders
    cdef const int[::1] node_start, pair_start, group_start, pair_i, pair_j, group_size, child_start, child
    cdef const int[::1] node_a, node_b, group_a, group_b, set_a_start, set_a, set_b_start, set_b
    # branches of nodes with the same atoms of a share a leader: their image under `star` is the same
    cdef int[::1] leader_of, leader_branch, leader_set
    cdef long long[::1] lead_number, mean_number
    # for the pair at hand: means of sets; covariances of branches, absolute and about the means of their nodes; mean over
    # all maps of a node or group, and how far (in nuclear norm) a map can be from it
    cdef Fit *pair
    cdef double[:, ::1] mean_a, mean_b, branch_cov, branch_rel, lead_cov, node_mean, group_mean
    cdef double[::1] node_spread, group_spread
    # for the cell at hand: its rotation, the best map there (`star`) and its image, costs
    cdef double[9] u
    cdef double cd, sd
    cdef bint relative
    cdef double[:, ::1] image, star_mean
    cdef int[::1] star, star_branch, trial, chosen, column_start, column, todo
    cdef double[::1] value, branch_value, cost, hu, hv, slack, above
    cdef int[::1] match, way
    cdef unsigned char[::1] used, taken
    cdef long long[::1] number_of, star_of, above_of
    cdef long long number
    cdef Scratch work
    # the search
    cdef double tolerance
    cdef int often              # steps from one look at the clock to the next
    cdef Cell *cells
    cdef Py_ssize_t n_cells, cell_room
    cdef State *states
    cdef Py_ssize_t n_states, state_room
    cdef int *link_item
    cdef int *link_next
    cdef Py_ssize_t n_links, link_room
    cdef int listed, tried
    cdef Watch watch

    def __cinit__(self):
        self.cells = NULL
        self.states = NULL
        self.link_item = self.link_next = NULL
        self.cell_room = self.state_room = self.link_room = 0

    def __dealloc__(self):
        free(self.cells)
        free(self.states)
        free(self.link_item)
        free(self.link_next)

    def __init__(self, plan, watch):
        self.plan, self.watch = plan, watch
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
        self._find_leaders()
        self.mean_a, self.star_mean, self.mean_number = rows(self.n_sets_a, 3), rows(self.n_sets_a, 3), longs(self.n_sets_a)
        self.mean_b = rows(self.n_sets_b, 3)
        self.branch_cov, self.branch_rel = rows(self.n_branches, 9), rows(self.n_branches, 9)
        self.node_mean, self.node_spread = rows(self.n_nodes, 9), doubles(self.n_nodes)
        self.group_mean, self.group_spread = rows(self.n_groups, 9), doubles(self.n_groups)
        self.image = rows(self.n, 3)
        self.star, self.trial = ints(self.n), ints(self.n)
        self.star_branch, self.star_of = ints(self.n_nodes), longs(self.n_nodes)
        widest, n_columns = max(plan.group_size, default=0) + 1, sum(plan.group_size)
        self.column_start, self.column = ints(self.n_groups + 1), ints(n_columns)
        for group, size in enumerate(plan.group_size):
            self.column_start[group + 1] = self.column_start[group] + size
        self.todo, self.chosen = ints(self.n + self.n_nodes + 1), ints(self.n_nodes)
        self.value, self.branch_value, self.number_of = doubles(self.n_nodes), doubles(self.n_branches), longs(self.n_nodes)
        self.cost, self.hu, self.hv, self.slack = doubles(widest * widest), doubles(widest), doubles(widest), doubles(widest)
        self.match, self.way, self.used = ints(widest), ints(widest), bytearray(widest)
        self.above, self.above_of, self.taken = doubles(len(plan.child)), longs(self.n_groups), bytearray(max(n_columns, 1))
        self.work.hu, self.work.hv, self.work.slack = &self.hu[0], &self.hv[0], &self.slack[0]
        self.work.match, self.work.way, self.work.used = &self.match[0], &self.way[0], &self.used[0]
        self.number = 0
        self.often = 1 if self.n_branches + len(plan.child) > 2000 else 64

    def _find_leaders(self):
        leaders = {}
        self.leader_of = ints(self.n_branches)
        for node in range(self.n_nodes):
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                atoms = tuple(self.pair_i[self.pair_start[branch]:self.pair_start[branch + 1]])
                groups = tuple(self.group_a[self.group_start[branch]:self.group_start[branch + 1]])
                key = self.node_a[node], atoms, groups
                self.leader_of[branch] = leaders.setdefault(key, (len(leaders), branch))[0]
        self.n_leaders = len(leaders)
        self.leader_branch = array("i", [branch for _, branch in leaders.values()])
        self.leader_set = array("i", [atoms for atoms, *_ in leaders])
        self.lead_cov, self.lead_number = rows(self.n_leaders, 9), longs(self.n_leaders)

    # -- a pair of conformers -----------------------------------------------------------------------------------------

    cdef void start(self, Fit *pair) noexcept nogil:
        """Means of all sets of atoms and covariances of all branches."""
        cdef Py_ssize_t node, branch, x
        cdef const double *ma
        cdef const double *mb
        cdef double p[3]
        cdef double d[3]
        cdef int e, i, j
        self.pair = pair
        mean_over(pair.a, self.n_sets_a, self.set_a_start, self.set_a, self.mean_a)
        mean_over(pair.b, self.n_sets_b, self.set_b_start, self.set_b, self.mean_b)
        for node in range(self.n_nodes):
            ma = &self.mean_a[self.node_a[node], 0]
            mb = &self.mean_b[self.node_b[node], 0]
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                for e in range(9):
                    self.branch_cov[branch, e] = self.branch_rel[branch, e] = 0.0
                for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                    i = self.pair_i[x]
                    j = self.pair_j[x]
                    add(pair.a + 3 * i, pair.b + 3 * j, &self.branch_cov[branch, 0])
                    for e in range(3):
                        p[e] = pair.a[3 * i + e] - ma[e]
                        d[e] = pair.b[3 * j + e] - mb[e]
                    add(p, d, &self.branch_rel[branch, 0])
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    i = self._size(self.group_a[x])
                    for e in range(3):
                        p[e] = i * (self.mean_a[self.group_a[x], e] - ma[e])
                        d[e] = self.mean_b[self.group_b[x], e] - mb[e]
                    add(p, d, &self.branch_rel[branch, 0])

    cdef inline int _size(self, Py_ssize_t atoms) noexcept nogil:
        return self.set_a_start[atoms + 1] - self.set_a_start[atoms]

    cdef void _measure(self) noexcept nogil:
        """Mean covariance over all maps of each node and group, and the largest distance from it in nuclear norm."""
        cdef Py_ssize_t node, branch, x
        cdef int e, n
        cdef double c[9]
        cdef double far
        for node in range(self.n_nodes):
            n = self.node_start[node + 1] - self.node_start[node]
            for e in range(9):
                self.node_mean[node, e] = 0.0
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                for e in range(9):
                    self.node_mean[node, e] += self.branch_cov[branch, e] / n
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    self._measure_group(x)
                    for e in range(9):
                        self.node_mean[node, e] += self.group_mean[x, e] / n
            self.node_spread[node] = 0.0
            for branch in range(self.node_start[node], self.node_start[node + 1]):
                for e in range(9):
                    c[e] = self.branch_cov[branch, e] - self.node_mean[node, e]
                far = 0.0
                for x in range(self.group_start[branch], self.group_start[branch + 1]):
                    far += self.group_spread[x]
                    for e in range(9):
                        c[e] += self.group_mean[x, e]
                far += nuclear_bound(c)
                if far > self.node_spread[node]:
                    self.node_spread[node] = far

    cdef void _measure_group(self, Py_ssize_t group) noexcept nogil:
        cdef int k = self.group_size[group], r, s, e, child
        cdef Py_ssize_t first = self.child_start[group]
        cdef double mean[9]
        cdef double c[9]
        cdef double far, most
        for e in range(9):
            self.group_mean[group, e] = 0.0
        self.group_spread[group] = 0.0
        for r in range(k):
            for e in range(9):
                mean[e] = 0.0
                for s in range(k):
                    mean[e] += self.node_mean[self.child[first + r * k + s], e] / k
                self.group_mean[group, e] += mean[e]
            most = 0.0
            for s in range(k):
                child = self.child[first + r * k + s]
                for e in range(9):
                    c[e] = self.node_mean[child, e] - mean[e]
                far = self.node_spread[child] + nuclear_bound(c)
                if far > most:
                    most = far
            self.group_spread[group] += most

    # -- best completions ---------------------------------------------------------------------------------------------

    cdef double _solve(self, Py_ssize_t node) noexcept nogil:
        """Least cost of a node for the cell at hand, each node once: −Σ a·U b, or how much less than `star` it can be."""
        cdef Py_ssize_t branch, x
        cdef double total, best = INFINITY
        cdef long long star = self.number - 1
        if self.number_of[node] == self.number:
            return self.value[node]
        for branch in range(self.node_start[node], self.node_start[node + 1]):
            if not self.relative:
                total = -self._product(branch)
            else:       # against itself `star` gains nothing
                total = 0.0 if self.star_branch[node] == branch and self.star_of[node] == star else -self._gain(branch)
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                total += self._assign(x)
            self.branch_value[branch] = total
            if total < best or best == INFINITY:
                best = total
                self.chosen[node] = <int>branch
        self.number_of[node] = self.number
        self.value[node] = best
        return best

    cdef inline double _product(self, Py_ssize_t branch) noexcept nogil:
        cdef const double *m = &self.branch_cov[branch, 0]
        return (self.u[0] * m[0] + self.u[1] * m[1] + self.u[2] * m[2] + self.u[3] * m[3] + self.u[4] * m[4]
                + self.u[5] * m[5] + self.u[6] * m[6] + self.u[7] * m[7] + self.u[8] * m[8])

    cdef double _gain(self, Py_ssize_t branch) noexcept nogil:
        """Bound on what a branch can be better than `star` under any rotation of the cell.

        The gain of a map is a sum over its branches of tr(U M), M = Σ p dᵀ over the atoms of the branch and the means of
        its groups: p is such a point of a relative to the mean of the node, d by how much its image differs from its image
        under `star`, relative likewise.
        """
        cdef double m[9]
        cdef const double *v = &self.branch_rel[branch, 0]
        cdef const double *lead = self._lead(self.leader_of[branch])
        cdef int e, f
        for e in range(3):
            for f in range(3):
                m[3 * e + f] = (v[3 * e] * self.u[3 * f] + v[3 * e + 1] * self.u[3 * f + 1]
                                + v[3 * e + 2] * self.u[3 * f + 2] - lead[3 * e + f])
        return matrix_term(m, self.cd, self.sd)

    cdef const double *_lead(self, Py_ssize_t leader) noexcept nogil:
        cdef double *out = &self.lead_cov[leader, 0]
        cdef Py_ssize_t branch = self.leader_branch[leader], atoms = self.leader_set[leader], x
        cdef const double *mean
        cdef const double *inner
        cdef double p[3]
        cdef double d[3]
        cdef int e, i
        if self.lead_number[leader] == self.number:
            return out
        self.lead_number[leader] = self.number
        mean = self._mean_of_star(atoms)
        for e in range(9):
            out[e] = 0.0
        for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
            i = self.pair_i[x]
            for e in range(3):
                p[e] = self.pair.a[3 * i + e] - self.mean_a[atoms, e]
                d[e] = self.image[i, e] - mean[e]
            add(p, d, out)
        for x in range(self.group_start[branch], self.group_start[branch + 1]):
            inner = self._mean_of_star(self.group_a[x])
            for e in range(3):
                p[e] = self._size(self.group_a[x]) * (self.mean_a[self.group_a[x], e] - self.mean_a[atoms, e])
                d[e] = inner[e] - mean[e]
            add(p, d, out)
        return out

    cdef const double *_mean_of_star(self, Py_ssize_t atoms) noexcept nogil:
        cdef double *out = &self.star_mean[atoms, 0]
        cdef Py_ssize_t x
        cdef int e, n = self._size(atoms)
        if self.mean_number[atoms] != self.number:
            self.mean_number[atoms] = self.number
            out[0] = out[1] = out[2] = 0.0
            for x in range(self.set_a_start[atoms], self.set_a_start[atoms + 1]):
                for e in range(3):
                    out[e] += self.image[self.set_a[x], e]
            for e in range(3):
                out[e] /= n
        return out

    cdef double _assign(self, Py_ssize_t group) noexcept nogil:
        cdef int k = self.group_size[group], x
        cdef Py_ssize_t first = self.child_start[group]
        cdef int *out = &self.column[self.column_start[group]]
        if k == 1:
            out[0] = 0
            return self._solve(self.child[first])
        for x in range(k * k):
            self._solve(self.child[first + x])
        self._costs(group)
        return assign(k, &self.cost[0], out, &self.work)

    cdef void _costs(self, Py_ssize_t group) noexcept nogil:
        """Cost of each piece of a group in each place, from solved nodes."""
        cdef int k = self.group_size[group], x
        cdef Py_ssize_t first = self.child_start[group]
        for x in range(k * k):
            self.cost[x] = self.value[self.child[first + x]]
            if self.relative:
                self.cost[x] -= self._shift(group, self.child[first + x])

    cdef double _shift(self, Py_ssize_t group, Py_ssize_t child) noexcept nogil:
        """The gain, at most, from where the mean of a piece goes."""
        cdef Py_ssize_t a = self.node_a[child], of_a = self.group_a[group]
        cdef double here[3]
        cdef double whole[3]
        turn(self.u, &self.mean_b[self.node_b[child], 0], here)
        turn(self.u, &self.mean_b[self.group_b[group], 0], whole)
        return self._size(a) * term(&self.mean_a[a, 0], &self.mean_a[of_a, 0], here, whole,
                                    self._mean_of_star(a), self._mean_of_star(of_a), self.cd, self.sd)

    cdef void _trace(self, int group, int *mapping, double *c) noexcept nogil:
        """OUT mapping: the best maps of a solved group; c (3, 3) += their covariance."""
        cdef Py_ssize_t top = 0, branch, x, r
        self._unfold(group, &top)
        while top > 0:
            top -= 1
            branch = self.chosen[self.todo[top]]
            self.star_branch[self.todo[top]] = <int>branch
            self.star_of[self.todo[top]] = self.number
            for r in range(9):
                c[r] += self.branch_cov[branch, r]
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                mapping[self.pair_i[x]] = self.pair_j[x]
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                self._unfold(x, &top)

    cdef inline void _unfold(self, Py_ssize_t group, Py_ssize_t *top) noexcept nogil:
        cdef int k = self.group_size[group], r
        for r in range(k):
            self.todo[top[0]] = self.child[self.child_start[group] + r * k + self.column[self.column_start[group] + r]]
            top[0] += 1

    cdef void _begin(self, const double *q, bint relative) noexcept nogil:
        rotation_of(q, self.u)
        self.number += 1
        self.relative = relative

    cdef void climb(self, const double *start) noexcept nogil:
        """Best map for a rotation, best rotation for the map, and so on uphill: a good incumbent, no proof."""
        cdef double c[9]
        cdef double q[4]
        cdef double value, last = -INFINITY
        cdef Py_ssize_t branch, x
        cdef int i
        for i in range(4):
            q[i] = start[i]
        for i in range(100):
            self._begin(q, False)
            self._solve(self.n_nodes - 1)
            branch = self.chosen[self.n_nodes - 1]
            self._take(branch, &self.star[0], c)
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                self._trace(<int>x, &self.star[0], c)
            value = largest(c, self.pair.ceiling)
            if value <= last + 1e-12 * self.pair.ceiling:
                return
            last = value
            if value > self.pair.best:
                self._keep(&self.star[0], value)
                if self.pair.enough:
                    return
            if self.often == 1:
                self.watch.look(self.pair)
                if self.pair.stopped:
                    return
            eigen(c, q)

    cdef inline void _take(self, Py_ssize_t branch, int *mapping, double *c) noexcept nogil:
        cdef Py_ssize_t x
        for x in range(9):
            c[x] = self.branch_cov[branch, x]
        for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
            mapping[self.pair_i[x]] = self.pair_j[x]

    cdef void _keep(self, const int *mapping, double value) noexcept nogil:
        cdef Py_ssize_t i
        self.pair.best = value
        self.pair.enough = value >= self.pair.goal
        for i in range(self.n):
            self.pair.best_map[i] = mapping[i]

    cdef inline double _bar(self) noexcept nogil:
        return bar(self.pair) + self.tolerance

    # -- states -------------------------------------------------------------------------------------------------------

    cdef int _link(self, int item, int rest) noexcept nogil:
        """A linked list with one more item; lists share their ends."""
        cdef int *grown
        if self.n_links == self.link_room:
            self.link_room = 2 * self.link_room + 4096
            grown = <int *>realloc(self.link_item, self.link_room * sizeof(int))
            if grown != NULL:
                self.link_item = grown
                grown = <int *>realloc(self.link_next, self.link_room * sizeof(int))
            if grown == NULL:
                self.link_room = self.n_links
                self._out_of_memory()
                return -1
            self.link_next = grown
        self.link_item[self.n_links] = item
        self.link_next[self.n_links] = rest
        self.n_links += 1
        return <int>(self.n_links - 1)

    cdef Py_ssize_t _new_state(self, Py_ssize_t parent, int group, Py_ssize_t branch) noexcept nogil:
        """The state in which an open group (of one piece) takes one of its branches; -1 without memory.

        A negative parent stands for the whole molecule.
        """
        cdef State *grown
        cdef State *state
        cdef Py_ssize_t x
        cdef int e, link
        if self.n_states == self.state_room:
            grown = <State *>realloc(self.states, (2 * self.state_room + 256) * sizeof(State))
            if grown == NULL:
                self._out_of_memory()
                return -1
            self.states = grown
            self.state_room = 2 * self.state_room + 256
        state = &self.states[self.n_states]
        for e in range(9):
            state.cov[e] = self.branch_cov[branch, e] + (self.states[parent].cov[e] if parent >= 0 else 0.0)
            state.form[e] = state.cov[e]
        state.slack = 0.0
        state.fixed = self._link(<int>branch, self.states[parent].fixed if parent >= 0 else -1)
        state.open = -1
        link = self.states[parent].open if parent >= 0 else -1
        while link >= 0:
            if self.link_item[link] != group:
                self._open(state, self.link_item[link])
            link = self.link_next[link]
        for x in range(self.group_start[branch], self.group_start[branch + 1]):
            self._open(state, <int>x)
        if self.pair.stopped:
            return -1
        state.top = largest(state.form, INFINITY)
        self.n_states += 1
        return self.n_states - 1

    cdef inline void _open(self, State *state, int group) noexcept nogil:
        cdef int e
        state.open = self._link(group, state.open)
        state.slack += self.group_spread[group]
        for e in range(9):
            state.form[e] += self.group_mean[group, e]

    # -- the search ---------------------------------------------------------------------------------------------------

    cdef void search(self) noexcept nogil:
        """Best-first branch and bound; `start` was called, and there is an incumbent."""
        cdef Cell cell
        cdef Py_ssize_t root = self.n_nodes - 1, branch, state
        # The answer is good to 5e-8 Å: ties between maps would otherwise be subdivided for ever.
        self.tolerance = 5e-8 * sqrt(self.n * fabs(2 * (self.pair.ceiling - self.pair.best)) + 1e-8 * self.n)
        self.n_cells = self.n_states = self.n_links = 0
        self._measure()
        for branch in range(self.node_start[root], self.node_start[root + 1]):
            if self._new_state(-1, -1, branch) < 0:
                return
        self._climb_from_states()
        for state in range(self.n_states):
            self._offer_whole(state, self.pair.upper)
        while self.n_cells > 0 and not self.pair.enough:
            self.pair.upper = self.cells[0].bound
            if self.pair.upper <= self._bar():
                return
            self.pair.steps += 1
            if self.pair.steps % self.often == 0:
                self.watch.look(self.pair)
            if self.pair.steps > self.pair.step_limit or self.pair.stopped:
                self.pair.stopped = True
                return
            self._pop(&cell)
            self._work_on(&cell)

    cdef void _climb_from_states(self) noexcept nogil:
        """Incumbents from the best rotations of the most promising states."""
        cdef double q[4]
        cdef double bound, most, last = INFINITY
        cdef Py_ssize_t state, best
        cdef int i
        for i in range(MOST_CLIMBS):
            best = -1
            most = -INFINITY
            for state in range(self.n_states):
                bound = self.states[state].top + self.states[state].slack
                if most < bound < last:
                    most = bound
                    best = state
            if best < 0 or self.pair.enough or self.pair.stopped:
                return
            last = most
            eigen(self.states[best].form, q)
            self.climb(q)

    cdef void _offer_whole(self, Py_ssize_t number, double bound) noexcept nogil:
        """The first cells of a state: all rotations, or those about the best where no others can be of interest."""
        cdef State *state = &self.states[number]
        cdef Cell cell
        cdef double second, top = two_eigen(state.form, state.frame, &second)
        # At the angle θ from the best, the form is at most top cos²θ + second sin²θ.
        cdef double far = (top + state.slack - self._bar()) / (top - second) if top > second else 1.0
        if far < 0.0:
            return
        cell.at[0] = cell.at[1] = cell.at[2] = 0.0
        cell.bound = bound
        cell.state = number
        cell.whole = True
        cell.face = 0
        if far < sin(AROUND) ** 2:
            cell.half = sqrt(far / (1.0 - far)) * (1 + 1e-9) + 1e-9
            place(&cell, state.frame)
            self._offer(&cell)
            return
        state.frame[0] = 1.0
        state.frame[1] = state.frame[2] = state.frame[3] = 0.0
        cell.half = 1.0
        cell.whole = False
        for cell.face in range(4):
            cell.bound = bound
            place(&cell, state.frame)
            self._offer(&cell)

    cdef void _offer(self, Cell *cell) noexcept nogil:
        """Keep a cell if it may hold something better, by what is known of its state alone."""
        cdef State *state = &self.states[cell.state]
        cdef double bound = state.slack + within(state.form, cell.q, cell.radius, state.top)
        if bound < cell.bound:
            cell.bound = bound
        if cell.bound > self._bar():
            self._push(cell)

    cdef void _work_on(self, Cell *cell) noexcept nogil:
        cdef double c[9]
        cdef double q[4]
        cdef double value, here, gain, most = 0.0, total = 0.0
        cdef int link, group, widest = -1
        cdef int open = self.states[cell.state].open
        if cell.bound <= self._bar():
            return
        value = self._complete(cell, c)
        if value > self.pair.best + 1e-12 * self.pair.ceiling:
            self._map_fixed(cell.state, &self.star[0])
            self._keep(&self.star[0], value)
            if self.pair.enough:
                return
            eigen(c, q)
            self.climb(q)
            if self.pair.enough:
                return
            value = self._complete(cell, c)
        here = within(c, cell.q, cell.radius, value)
        if cell.radius >= WIDE:
            link = open
            while link >= 0:
                group = self.link_item[link]
                total += self.group_spread[group]
                if self.group_size[group] == 1 and self.group_spread[group] > most:
                    most = self.group_spread[group]
                    widest = group
                link = self.link_next[link]
            if most > SHARE * total:
                self._choose(cell, widest, INFINITY)
            elif open >= 0:
                self._split(cell, c, value, INFINITY)
            return
        self._rotate_star(cell)
        link = open
        while link >= 0:
            group = self.link_item[link]
            gain = -self._assign(group)
            total += gain
            if self.group_size[group] == 1 and gain > most:
                most = gain
                widest = group
            link = self.link_next[link]
        if here + total < cell.bound:
            cell.bound = here + total
        if cell.bound <= self._bar() or self._list_maps(cell, here + total - self._bar()):
            return
        if widest >= 0 and most > SHARE * total:
            self._choose(cell, widest, here + total - most)
        else:
            self._split(cell, c, value, total)

    cdef double _complete(self, const Cell *cell, double *c) noexcept nogil:
        """`star`: the best completion of the state for the rotation in the middle; OUT c its covariance.

        Returns the best Σ a·U b of that map over all rotations.
        """
        cdef int link = self.states[cell.state].open, e
        self._begin(cell.q, False)
        for e in range(9):
            c[e] = self.states[cell.state].cov[e]
        while link >= 0:
            self._assign(self.link_item[link])
            self._trace(self.link_item[link], &self.star[0], c)
            link = self.link_next[link]
        return largest(c, self.pair.ceiling)

    cdef void _rotate_star(self, const Cell *cell) noexcept nogil:
        """Get ready for gains relative to `star`."""
        cdef int link = self.states[cell.state].open
        cdef Py_ssize_t x, atoms
        self._begin(cell.q, True)
        self.cd = cos(2 * cell.radius)
        self.sd = sin(2 * cell.radius)
        while link >= 0:
            atoms = self.group_a[self.link_item[link]]
            for x in range(self.set_a_start[atoms], self.set_a_start[atoms + 1]):
                turn(self.u, self.pair.b + 3 * self.star[self.set_a[x]], &self.image[self.set_a[x], 0])
            link = self.link_next[link]

    cdef void _map_fixed(self, Py_ssize_t state, int *mapping) noexcept nogil:
        cdef int link = self.states[state].fixed
        cdef Py_ssize_t x, branch
        while link >= 0:
            branch = self.link_item[link]
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                mapping[self.pair_i[x]] = self.pair_j[x]
            link = self.link_next[link]

    cdef void _choose(self, const Cell *cell, int group, double others) noexcept nogil:
        """Split by the branches of one open group; `others` bounds all else, infinity if branch values are no gains."""
        cdef Cell part
        cdef Py_ssize_t node = self.child[self.child_start[group]], branch, state
        cdef double bound
        cdef int e
        for branch in range(self.node_start[node], self.node_start[node + 1]):
            bound = cell.bound
            if others < INFINITY and others - self.branch_value[branch] < bound:
                bound = others - self.branch_value[branch]
            if bound <= self._bar():
                continue
            state = self._new_state(cell.state, group, branch)
            if state < 0:
                return
            if cell.whole:
                self._offer_whole(state, bound)
                continue
            for e in range(4):
                self.states[state].frame[e] = self.states[cell.state].frame[e]
            part = cell[0]
            part.state = state
            part.bound = bound
            self._offer(&part)

    cdef void _split(self, const Cell *cell, const double *c, double value, double gain) noexcept nogil:
        """Into eight cells; what holds of the whole, the form of `star` and the gain over it, holds of each."""
        cdef Cell part
        cdef double bound
        cdef int i
        for i in range(8):
            eighth(cell, i, &part)
            place(&part, self.states[cell.state].frame)
            if gain < INFINITY:
                bound = within(c, part.q, part.radius, value) + gain
                if bound < part.bound:
                    part.bound = bound
            self._offer(&part)

    # -- maps of one state in one cell, listed ------------------------------------------------------------------------

    cdef bint _list_maps(self, const Cell *cell, double slack) noexcept nogil:
        """Try all maps that may be better than the incumbent in this cell; False if there are too many."""
        cdef double c[9]
        cdef Py_ssize_t mark = self.n_links
        cdef int e, link = self.states[cell.state].open, head = -1
        while link >= 0:
            head = self._link(-1 - self.link_item[link], head)
            link = self.link_next[link]
        for e in range(9):
            c[e] = self.states[cell.state].cov[e]
        self.listed = self.tried = 0
        self._visit(head, slack, c, cell.state)
        self.n_links = mark
        return not self._is_enough()

    cdef inline bint _is_enough(self) noexcept nogil:
        return self.listed > MOST_LISTED or self.tried > MOST_TRIED or self.pair.stopped

    cdef void _visit(self, int head, double slack, const double *fixed, Py_ssize_t state) noexcept nogil:
        """All completions from a list of open nodes (≥ 0) and groups (−1 − group) that cost at most `slack` more."""
        cdef double c[9]
        cdef double value, regret
        cdef int item, rest, fresh, e
        cdef Py_ssize_t branch, x, mark = self.n_links
        self.tried += 1
        if self._is_enough():
            return
        if head < 0:
            self.listed += 1
            if exceeds(fixed, self.pair.best):
                value = largest(fixed, self.pair.ceiling)
                if value > self.pair.best:
                    self._map_fixed(state, &self.trial[0])
                    self._keep(&self.trial[0], value)
            return
        item = self.link_item[head]
        rest = self.link_next[head]
        if item < 0:
            x = -1 - item
            if self.group_size[x] == 1:
                self._visit(self._link(self.child[self.child_start[x]], rest), slack, fixed, state)
                self.n_links = mark
                return
            if self.above_of[x] != self.number:
                self.above_of[x] = self.number
                self._reduce(x)
            self._visit_rows(x, 0, rest, slack, fixed, state)
            return
        for branch in range(self.node_start[item], self.node_start[item + 1]):
            regret = self.branch_value[branch] - self.value[item]
            if regret > slack:
                continue
            for x in range(self.pair_start[branch], self.pair_start[branch + 1]):
                self.trial[self.pair_i[x]] = self.pair_j[x]
            for e in range(9):
                c[e] = fixed[e] + self.branch_cov[branch, e]
            fresh = rest
            for x in range(self.group_start[branch], self.group_start[branch + 1]):
                fresh = self._link(-1 - <int>x, fresh)
            self._visit(fresh, slack - regret, c, state)
            self.n_links = mark

    cdef void _visit_rows(self, Py_ssize_t group, int row, int rest, double slack, const double *fixed,
                          Py_ssize_t state) noexcept nogil:
        cdef int k = self.group_size[group], column
        cdef Py_ssize_t first = self.child_start[group] + row * k, out = self.column_start[group], mark = self.n_links
        cdef double left
        self.tried += 1
        if row == k:
            self._visit(rest, slack, fixed, state)
            return
        for column in range(k):
            left = slack - self.above[first + column]
            if self.taken[out + column] or left < 0:
                continue
            self.taken[out + column] = 1
            self._visit_rows(group, row + 1, self._link(self.child[first + column], rest), left, fixed, state)
            self.taken[out + column] = 0
            self.n_links = mark
            if self._is_enough():
                return

    cdef void _reduce(self, Py_ssize_t group) noexcept nogil:
        """Costs above the potentials of the cheapest assignment: what is added up along another is its regret."""
        cdef int k = self.group_size[group], r, c
        cdef Py_ssize_t first = self.child_start[group]
        cdef double above
        self._costs(group)
        assign_many(k, &self.cost[0], &self.column[self.column_start[group]], &self.work)
        for r in range(k):
            for c in range(k):
                above = self.cost[r * k + c] - self.hu[r + 1] - self.hv[c + 1]
                self.above[first + r * k + c] = above if above > 0 else 0.0

    # -- the heap of cells --------------------------------------------------------------------------------------------

    cdef void _push(self, const Cell *cell) noexcept nogil:
        """Into a binary heap with the largest bound on top."""
        cdef Py_ssize_t at = self.n_cells, parent
        cdef Cell *grown
        if self.n_cells == self.cell_room:
            grown = <Cell *>realloc(self.cells, (2 * self.cell_room + 1024) * sizeof(Cell))
            if grown == NULL:
                self._out_of_memory()
                return
            self.cells = grown
            self.cell_room = 2 * self.cell_room + 1024
        self.n_cells += 1
        while at > 0:
            parent = (at - 1) // 2
            if self.cells[parent].bound >= cell.bound:
                break
            self.cells[at] = self.cells[parent]
            at = parent
        self.cells[at] = cell[0]

    cdef void _pop(self, Cell *out) noexcept nogil:
        cdef Py_ssize_t at = 0, child
        cdef Cell last
        out[0] = self.cells[0]
        self.n_cells -= 1
        last = self.cells[self.n_cells]
        while True:
            child = 2 * at + 1
            if child >= self.n_cells:
                break
            if child + 1 < self.n_cells and self.cells[child + 1].bound > self.cells[child].bound:
                child += 1
            if self.cells[child].bound <= last.bound:
                break
            self.cells[at] = self.cells[child]
            at = child
        self.cells[at] = last

    cdef void _out_of_memory(self) noexcept nogil:
        with gil:
            self.watch.pending = MemoryError(f"{self.n_cells} cells of rotations in {self.n_states} states: give a node_limit")
        self.pair.stopped = True
