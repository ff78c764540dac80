# cython: language_level=3, cdivision=True, initializedcheck=False
"""Text to records and numbers to text: MDL molfiles (V2000, V3000), Tripos MOL2, and rows of an RMSD matrix.

BIOVIA, CTfile Formats (2020); Tripos Mol2 File Format (2005). Only what a comparison needs is read: symbols, formal
charges, coordinates, bonds and their types. Coordinates are parsed for every record; the graph only if its text differs
from that of the record before, so that conformers cost one graph. No pointer goes beyond the record it was given for.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.math cimport floor, isfinite
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from array import array

from flashrmsd_cy._elements import atom_label, sybyl_label
from flashrmsd_cy.errors import FormatError

MOLECULE = "@<TRIPOS>MOLECULE"
# Numbered as in molfiles. An amide bond is a single one; dummy and unknown bonds are like their own kind only.
BOND_TYPES = {b"1": 1, b"2": 2, b"3": 3, b"am": 1, b"ar": 4, b"du": -1, b"un": -2}
NOT_CONNECTED = b"nc"
NO_LISTS = (b"", b"0")            # the third number of a V2000 counts line: atom lists that follow the bonds

cdef enum:
    V2000 = 1
    V3000 = 2
    MOL2 = 3
    ATOM_TEXT = 8                   # columns 31 to 38 of a V2000 atom line: symbol, mass difference, charge
    MOST_GRAPHS = 4096              # that are remembered: a file of any length may hold a new one in each record
    EXACT_DIGITS = 15               # integers with so many digits are exact as double, as are the powers up to 10^22
    WIDTH = 352                     # characters of any double as '%f '

cdef double[23] POWERS
cdef int _i
POWERS[0] = 1.0
for _i in range(1, 23):
    POWERS[_i] = POWERS[_i - 1] * 10.0

cdef int[8] CHARGES                 # by the code of a V2000 atom line; 4 is a doublet radical
CHARGES[:] = [0, 3, 2, 1, 0, -1, -2, -3]

cdef array.array DOUBLES = array("d")


# -- buffers and fields -----------------------------------------------------------------------------------------------

cdef struct Buffer:
    char *at
    Py_ssize_t size, room


cdef int reserve(Buffer *buffer, Py_ssize_t more) except -1:
    """Room for `more` bytes behind what is there."""
    cdef char *grown
    cdef Py_ssize_t room
    if buffer.size + more > buffer.room:
        room = 2 * (buffer.size + more) + 256
        grown = <char *>realloc(buffer.at, room)
        if grown == NULL:
            raise MemoryError
        buffer.at = grown
        buffer.room = room
    return 0


cdef inline int put(Buffer *buffer, const char *text, Py_ssize_t size) except -1:
    reserve(buffer, size)
    if size:
        memcpy(buffer.at + buffer.size, text, size)
    buffer.size += size
    return 0


cdef inline bint same(const Buffer *a, const Buffer *b) noexcept nogil:
    return a.size == b.size and (a.size == 0 or memcmp(a.at, b.at, a.size) == 0)


cdef inline void swap(Buffer *a, Buffer *b) noexcept nogil:
    cdef Buffer kept = a[0]
    a[0] = b[0]
    b[0] = kept


cdef inline const char *line_end(const char *p, const char *stop) noexcept nogil:
    cdef const char *found = <const char *>memchr(p, c"\n", stop - p) if p < stop else NULL
    return stop if found == NULL else found


cdef inline const char *after(const char *end, const char *stop) noexcept nogil:
    """Where the line after the one that ends at `end` begins."""
    return end + 1 if end < stop else stop


cdef inline bint blank(char c) noexcept nogil:
    return c == c" " or c == c"\t" or c == c"\r" or c == c"\v" or c == c"\f" or c == c"\n"


cdef inline bint starts(const char *p, const char *end, const char *with_, Py_ssize_t size) noexcept nogil:
    return end - p >= size and memcmp(p, with_, size) == 0


cdef inline bint empty(const char *p, const char *end) noexcept nogil:
    while p < end:
        if not blank(p[0]):
            return False
        p += 1
    return True


cdef inline bint word(const char **p, const char *end, const char **start) noexcept nogil:
    """OUT start: the next word before `end`, OUT p: its end; False if there is none."""
    cdef const char *c = p[0]
    while c < end and blank(c[0]):
        c += 1
    start[0] = c
    while c < end and not blank(c[0]):
        c += 1
    p[0] = c
    return c > start[0]


cdef inline bint whole(const char *p, const char *end, long long *out) noexcept nogil:
    """OUT out: the integer that fills [p, end) but for blanks; False if there is none or it has over 9 digits."""
    cdef long long value = 0
    cdef int digits = 0
    cdef bint negative = False
    while p < end and blank(p[0]):
        p += 1
    if p < end and (p[0] == c"-" or p[0] == c"+"):
        negative = p[0] == c"-"
        p += 1
    while p < end and c"0" <= p[0] <= c"9":
        value = 10 * value + (p[0] - c"0")
        digits += 1
        p += 1
        if digits > 9:
            return False
    out[0] = -value if negative else value
    return digits > 0 and empty(p, end)


cdef inline bint column(const char *p, const char *end, int *out) noexcept nogil:
    """OUT out: the integer in a column of at most three characters; False if there is none."""
    cdef long long value = 0
    if end - p == 3 and c"0" <= p[2] <= c"9" and p[0] == c" " and (p[1] == c" " or c"0" <= p[1] <= c"9"):
        out[0] = (0 if p[1] == c" " else 10 * (p[1] - c"0")) + p[2] - c"0"
        return True
    if not whole(p, end, &value):
        return False
    out[0] = <int>value
    return True


cdef inline bint decimal(const char *p, const char *end, double *out) noexcept nogil:
    """OUT out: the plain decimal number in [p, end), correctly rounded; False if it is written in another way.

    The quotient of two integers that are exact as double is the nearest double (Clinger, PLDI 1990,
    10.1145/93542.93557).
    """
    cdef long long mantissa = 0
    cdef int digits = 0, fraction = 0, point = 0
    cdef bint negative = False
    cdef char c
    while p < end and blank(p[0]):
        p += 1
    if p < end and (p[0] == c"-" or p[0] == c"+"):
        negative = p[0] == c"-"
        p += 1
    while p < end:
        c = p[0]
        if c"0" <= c <= c"9":
            mantissa = 10 * mantissa + (c - c"0")
            digits += 1
            fraction += point
            if digits > EXACT_DIGITS:
                return False
        elif c == c"." and not point:
            point = 1
        else:
            break
        p += 1
    if digits == 0 or not empty(p, end):
        return False
    out[0] = <double>mantissa / POWERS[fraction]
    if negative:
        out[0] = -out[0]
    return True


cdef int number(const char *p, const char *end, double *out) except -1:
    """OUT out: the number in [p, end) as Python reads it. Returns 0 if it is none, 1 if it is one, 2 if not finite."""
    if decimal(p, end, out):
        return 1
    try:
        out[0] = float(PyBytes_FromStringAndSize(p, end - p))
    except ValueError:
        return 0
    return 1 if isfinite(out[0]) else 2


cdef str text_of(const char *p, const char *end):
    return PyBytes_FromStringAndSize(p, end - p).decode("utf-8", "replace")


cdef str quoted(const char *p, const char *end, Py_ssize_t width):
    return repr(text_of(p, end)[:width])


# -- what is read -----------------------------------------------------------------------------------------------------

@cython.final
cdef class Topology:
    """Atoms (atomic number, or the name of what has none) and bonds (i, j, type), i < j, sorted; indices from 0.

    `charges` are formal charges, None if they were not asked for.
    """

    cdef readonly tuple elements, bonds, charges

    def __init__(self, tuple elements, tuple bonds, charges=None):
        self.elements, self.bonds, self.charges = elements, bonds, charges


@cython.final
cdef class Record:
    """One molecule of a file: number from 0, first line from 1, coordinates x y z x y z … in Å, or what is wrong."""

    cdef readonly str file, title, problem
    cdef readonly Py_ssize_t number, line
    cdef readonly Topology topology
    cdef readonly array.array positions

    def __str__(self):
        title = f", {self.title[:60]!r}" if self.title else ""
        return f"{self.file}: record {self.number} (line {self.line}{title})"

    @cython.boundscheck(False)
    @cython.wraparound(False)
    def place(self, const int[::1] atoms, double[::1] out, Py_ssize_t first=0):
        """Coordinates x y z of these atoms of the record, in this order, to ``out[first:first + 3 * n]``."""
        cdef const double *x = self.positions.data.as_doubles
        cdef Py_ssize_t row, atom, n = len(self.positions) // 3
        if first < 0 or out.shape[0] - first < 3 * atoms.shape[0]:
            raise IndexError(f"no room for {atoms.shape[0]} atoms from {first} on in {out.shape[0]} numbers")
        for row in range(atoms.shape[0]):
            atom = atoms[row]
            if not 0 <= atom < n:
                raise IndexError(f"there is no atom {atom} among {n}")
            memcpy(&out[first + 3 * row], x + 3 * atom, 3 * sizeof(double))


@cython.final
cdef class Topologies:
    """Keeps one object for each distinct graph, so that what is prepared for it is prepared once.

    With `charges`, graphs differ by formal charges too, and MOL2, which has none, is refused.
    """

    cdef dict known, labels
    cdef bint charges
    cdef Topology last
    # Text of the graph, of the record before and of this one: what the atoms are, what the bonds are.
    cdef Buffer atoms_before, bonds_before, atoms, bonds
    cdef Buffer atom_lines, bond_lines      # long long line numbers of the rows, for messages
    cdef Buffer places                      # double coordinates
    cdef Buffer joined                      # a V3000 line with its continuations
    # The record in hand
    cdef const char *begin
    cdef const char *stop
    cdef Py_ssize_t line
    cdef bint at_end                        # nothing follows it in the file

    def __cinit__(self, charges=False):
        self.known, self.labels = {}, {}
        self.charges = charges

    def __dealloc__(self):
        free(self.atoms_before.at)
        free(self.bonds_before.at)
        free(self.atoms.at)
        free(self.bonds.at)
        free(self.atom_lines.at)
        free(self.bond_lines.at)
        free(self.places.at)
        free(self.joined.at)

    def record(self, str file, Py_ssize_t number, Py_ssize_t line, bytes text, Py_ssize_t start, Py_ssize_t stop,
               bint at_end, bint mol2):
        """The record in ``text[start:stop]``, whose lines end with LF; a broken one is a record with a problem.

        Parameters
        ----------
        file, number, line : what the record says of itself
        at_end : bool
            Nothing follows it in the file, not even ``$$$$``.
        mol2 : bool
            MOL2, else a molfile.
        """
        cdef Record record = Record.__new__(Record)
        cdef const char *head
        if not 0 <= start <= stop <= PyBytes_GET_SIZE(text):
            raise IndexError(f"there is no [{start}:{stop}] in {PyBytes_GET_SIZE(text)} bytes")
        self.begin = PyBytes_AS_STRING(text) + start
        self.stop = PyBytes_AS_STRING(text) + stop
        self.line, self.at_end = line, at_end
        head = after(line_end(self.begin, self.stop), self.stop) if mol2 else self.begin
        record.file, record.number, record.line = file, number, line
        record.title = text_of(head, line_end(head, self.stop)).strip()
        record.problem = ""
        self.atoms.size = self.bonds.size = self.atom_lines.size = self.bond_lines.size = self.places.size = 0
        try:
            record.topology = self._mol2() if mol2 else self._molfile()
            record.positions = array.clone(DOUBLES, self.places.size // sizeof(double), False)
            if self.places.size:
                memcpy(record.positions.data.as_chars, self.places.at, self.places.size)
        except FormatError as error:
            record.topology = None
            record.positions = array.clone(DOUBLES, 0, False)
            record.problem = str(error)
        return record

    cdef Topology _keep(self, list elements, list bonds, list charges):
        """The graph with these atoms and bonds; the text just read stands for it from now on."""
        bonds = sorted([(i, j, kind) if i < j else (j, i, kind) for i, j, kind in bonds])
        key = tuple(elements), tuple(bonds), tuple(charges) if self.charges else None
        topology = self.known.get(key)
        if topology is None:
            if len(self.known) >= MOST_GRAPHS:
                self.known.clear()
            topology = self.known[key] = Topology(*key)
        self.last = topology
        swap(&self.atoms, &self.atoms_before)
        swap(&self.bonds, &self.bonds_before)
        return self.last

    cdef inline bint _as_before(self) noexcept:
        return self.last is not None and same(&self.atoms, &self.atoms_before) and same(&self.bonds, &self.bonds_before)

    cdef object _label(self, bytes symbol, Py_ssize_t line, bint sybyl):
        """Element of a symbol, or of an atom type of MOL2."""
        found = self.labels.get((sybyl, symbol))
        if found is None:
            name = symbol.decode("utf-8", "replace")
            try:
                found = sybyl_label(name) if sybyl else atom_label(name)
            except FormatError as error:
                raise FormatError(f"line {line}: {error}") from None
            if len(self.labels) < 4096:
                self.labels[sybyl, symbol] = found
        return found

    cdef int _coordinate(self, const char *p, const char *end, Py_ssize_t line, list problems) except -1:
        """Append one coordinate. Returns 0 if there is none; one that is not finite, or absurdly large, is a problem."""
        cdef double value = 0.0
        cdef int kind = number(p, end, &value)
        if kind == 2:
            problems.append(f"line {line}: the coordinate {value} is not finite")
        elif kind == 1 and not -1e60 <= value <= 1e60:  # the search multiplies up to four of them
            problems.append(f"line {line}: the coordinate {value} is larger than 1e+60 Å")
        put(&self.places, <const char *>&value, sizeof(double))
        return kind

    # -- molfiles -----------------------------------------------------------------------------------------------------

    cdef Topology _molfile(self):
        cdef const char *p = self.begin
        cdef const char *end
        cdef int i
        for i in range(3):
            p = after(line_end(p, self.stop), self.stop)
        if p >= self.stop:
            if empty(self.begin, self.stop):
                what = "no text"
            else:
                what = f"{text_of(self.begin, self.stop).rstrip(chr(10)).count(chr(10)) + 1} lines"
            raise FormatError(f"it has {what}, expected three header lines and a counts line")
        end = line_end(p, self.stop)
        if b"V3000" in PyBytes_FromStringAndSize(p, end - p).upper():
            return self._v3000(after(end, self.stop))
        return self._v2000(p, end)

    cdef Topology _v2000(self, const char *counts, const char *end):
        cdef long long n_atoms = 0, n_bonds = 0
        cdef Py_ssize_t i, length, first = self.line + 4
        cdef const char *p
        cdef const char *bonds
        cdef char *kept
        cdef int field, kind = 1
        cdef list problems = []
        if not (whole(counts, min(counts + 3, end), &n_atoms) and end - counts > 3
                and whole(counts + 3, min(counts + 6, end), &n_bonds)):
            raise FormatError(
                f"line {first - 1}: {quoted(counts, end, 40)} is no counts line: expected the numbers of atoms and "
                "bonds in three columns each"
            )
        if n_atoms < 0 or n_bonds < 0:
            self._cut_off(n_atoms, n_bonds, after(end, self.stop))
        put(&self.atoms, <const char *>&n_atoms, sizeof(long long))
        put(&self.atoms, <const char *>&n_bonds, sizeof(long long))
        p = after(end, self.stop)
        bonds = p
        for i in range(n_atoms):
            if p >= self.stop:
                self._cut_off(n_atoms, n_bonds, bonds)
            end = line_end(p, self.stop)
            length = end - p
            for field in range(3):
                kind = 0
                if length > 10 * field:
                    kind = self._coordinate(p + 10 * field, min(p + 10 * field + 10, end), first + i, problems)
                if kind == 0:
                    raise FormatError(
                        f"line {first + i}: {quoted(p, end, 40)} does not begin with three coordinates of ten "
                        f"columns each (atom {i + 1} of {n_atoms})"
                    )
            reserve(&self.atoms, ATOM_TEXT)
            kept = self.atoms.at + self.atoms.size
            if length >= 31 + ATOM_TEXT:
                memcpy(kept, p + 31, ATOM_TEXT)
            else:
                memset(kept, c" ", ATOM_TEXT)
                if length > 31:
                    memcpy(kept, p + 31, length - 31)
            self.atoms.size += ATOM_TEXT
            p = after(end, self.stop)
        bonds = p
        for i in range(n_bonds):
            if p >= self.stop:
                self._cut_off(n_atoms, n_bonds, after(line_end(counts, self.stop), self.stop))
            p = after(line_end(p, self.stop), self.stop)
        if problems:
            raise FormatError(problems[0])
        end = line_end(counts, self.stop)
        no_lists = end - counts <= 6 or PyBytes_FromStringAndSize(counts + 6, min(end - counts, 9) - 6).strip() in NO_LISTS
        end = self._check_end(p, first + n_atoms + n_bonds, no_lists)
        bonds = self._v2000_bonds(bonds, n_atoms, n_bonds)
        put(&self.bonds, bonds, end - bonds)
        return self.last if self._as_before() else self._v2000_graph(n_atoms, n_bonds)

    cdef object _cut_off(self, long long n_atoms, long long n_bonds, const char *rest):
        lines = text_of(rest, self.stop).count("\n")
        raise FormatError(
            f"line {self.line + 3}: {n_atoms} atoms and {n_bonds} bonds are announced, but {lines} lines "
            "follow: is the record cut off?"
        )

    cdef const char *_v2000_bonds(self, const char *p, Py_ssize_t n_atoms, Py_ssize_t n_bonds) except NULL:
        """Two atoms and type of each bond into the text of the graph; returns the end of the bonds.

        Not the lines as they are: wedges, which differ from conformer to conformer, are written there too.
        """
        cdef const char *end
        cdef Py_ssize_t row, line = self.line + 4 + n_atoms
        cdef int *triple
        reserve(&self.bonds, 3 * n_bonds * sizeof(int))
        triple = <int *>self.bonds.at
        for row in range(n_bonds):
            end = line_end(p, self.stop)
            if not (end - p > 6 and column(p, p + 3, triple) and column(p + 3, p + 6, triple + 1)
                    and column(p + 6, min(p + 9, end), triple + 2)):
                raise FormatError(
                    f"line {line}: {quoted(p, end, 20)} does not begin with two atoms and a bond type of three "
                    f"columns each (bond {row + 1} of {n_bonds})"
                )
            triple[0] -= 1
            triple[1] -= 1
            check_bond(triple[0], triple[1], n_atoms, line)
            if triple[0] > triple[1]:
                triple[0], triple[1] = triple[1], triple[0]
            triple += 3
            p = after(end, self.stop)
            line += 1
        self.bonds.size = 3 * n_bonds * sizeof(int)
        return p

    cdef Topology _v2000_graph(self, Py_ssize_t n_atoms, Py_ssize_t n_bonds):
        """The graph in the kept text of atoms and bonds."""
        cdef const char *p = self.atoms.at + 2 * sizeof(long long)
        cdef const int *triple = <const int *>self.bonds.at
        cdef long long kind = 0
        cdef Py_ssize_t row
        cdef list elements = [], charges = [], bonds = []
        for row in range(n_atoms):
            elements.append(self._label(PyBytes_FromStringAndSize(p, 3), self.line + 4 + row, False))
            charges.append(CHARGES[kind] if whole(p + 5, p + 8, &kind) and 0 <= kind < 8 else 0)
            p += ATOM_TEXT
        for row in range(n_bonds):
            bonds.append((triple[0], triple[1], triple[2]))
            triple += 3
        check_distinct(bonds)
        p = <const char *>triple
        self._charge_lines(p, self.bonds.at + self.bonds.size, self.line + 4 + n_atoms + n_bonds, charges)
        return self._keep(elements, bonds, charges)

    cdef int _charge_lines(self, const char *p, const char *stop, Py_ssize_t line, list charges) except -1:
        """``M  CHG`` lines; they, or ``M  RAD`` lines, make the charges of the atom lines void."""
        cdef const char *end
        cdef long long count = 0, atom = 0, charge = 0, x
        cdef bint first = True
        while p < stop:
            end = line_end(p, stop)
            if starts(p, end, b"M  CHG", 6) or starts(p, end, b"M  RAD", 6):
                if first:
                    charges[:] = [0] * len(charges)
                    first = False
                if p[3] == c"C":
                    good = end - p > 6 and whole(p + 6, min(p + 9, end), &count)
                    for x in range(count if good else 0):
                        good = (end - p > 13 + 8 * x and whole(p + 9 + 8 * x, p + 13 + 8 * x, &atom)
                                and whole(p + 13 + 8 * x, min(p + 17 + 8 * x, end), &charge)
                                and 1 <= atom <= len(charges))
                        if not good:
                            break
                        charges[atom - 1] = charge
                    if not good:
                        raise FormatError(
                            f"line {line}: {quoted(p, end, 40)} does not give a number and so many pairs of an atom "
                            "and its charge"
                        )
            p = after(end, stop)
            line += 1
        return 0

    cdef const char *_check_end(self, const char *p, Py_ssize_t line, bint no_lists) except NULL:
        """Refuse a record that is longer than its counts line says, has no end, or runs into the next one.

        Returns the end of what belongs to the molecule.
        """
        cdef const char *end = line_end(p, self.stop)
        cdef const char *found
        if no_lists and p < self.stop and PyBytes_FromStringAndSize(p, min(end - p, 9)).replace(b" ", b"").isdigit():
            raise FormatError(
                f"line {line}: {quoted(p, end, 20)} follows the last bond that the counts line announces"
            )
        while p < self.stop and not starts(p, end, b"M  END", 6):
            if p[0] == c">":    # data without an end of the molecule before them, as some programs write
                return p
            p = after(end, self.stop)
            end = line_end(p, self.stop)
            line += 1
        if p >= self.stop:
            if self.at_end:
                raise FormatError("it ends without 'M  END': is the file cut off?")
            return p
        found = p = after(end, self.stop)
        while p < self.stop:
            line += 1
            end = line_end(p, self.stop)
            if not empty(p, end):
                if p[0] != c">":
                    raise FormatError(
                        f"line {line}: {quoted(p, end, 40)} follows 'M  END': is a line '$$$$' missing?"
                    )
                break
            p = after(end, self.stop)
        return found

    cdef Topology _v3000(self, const char *p):
        cdef const char *here = p       # the physical line in hand
        cdef const char *end
        cdef const char *text
        cdef const char *c
        cdef const char *start
        cdef Py_ssize_t line = self.line + 3, first_line, n_atoms = 0, n_bonds = 0
        cdef long long announced_atoms = -1, announced_bonds = -1
        cdef bint ended = False, counted = False
        cdef int section = 0
        cdef list problems = []
        put(&self.atoms, b"V3000\n", 6)
        while p < self.stop and not ended:
            here, text = p, p
            line += 1
            first_line = line
            end = line_end(p, self.stop)
            p = after(end, self.stop)
            end = stripped(text, end)
            if starts(text, end, b"M  V30 ", 7) and (end - 1)[0] == c"-" and p < self.stop:
                self.joined.size = 0
                put(&self.joined, text, end - text)
                while self.joined.at[self.joined.size - 1] == c"-" and p < self.stop:
                    here = p
                    line += 1
                    end = line_end(p, self.stop)
                    p = after(end, self.stop)
                    end = stripped(here, end)
                    self.joined.size -= 1
                    if end - here > 7:
                        put(&self.joined, here + 7, end - here - 7)
                text = self.joined.at
                end = text + self.joined.size
            ended = starts(text, end, b"M  END", 6)
            if not starts(text, end, b"M  V30 ", 7):
                continue
            c = text + 7
            if not word(&c, end, &start):
                continue
            if same_word(start, c, b"BEGIN", 5):
                word(&c, end, &start)
                name = PyBytes_FromStringAndSize(start, c - start).upper()
                section = 1 if name == b"ATOM" else 2 if name == b"BOND" else 0
            elif same_word(start, c, b"END", 3):
                section = 0
            elif same_word(start, c, b"COUNTS", 6):
                counted = True
                if not (word(&c, end, &start) and whole(start, c, &announced_atoms)
                        and word(&c, end, &start) and whole(start, c, &announced_bonds)):
                    raise FormatError(
                        f"line {first_line}: {quoted(text + 7, end, 50)} does not give the numbers of atoms and bonds"
                    )
            elif section == 1:
                n_atoms += 1
                if not self._v3000_atom(text + 7, end, first_line, problems):
                    problems.append(f"line {first_line}: {quoted(text + 7, end, 50)} is not index, element, x, y, z")
            elif section == 2:
                n_bonds += 1
                put(&self.bonds, text + 7, end - text - 7)
                put(&self.bonds, b"\n", 1)
                put(&self.bond_lines, <const char *>&first_line, sizeof(Py_ssize_t))
        if not counted:
            raise FormatError("it has no line 'M  V30 COUNTS'")
        self._check_end(here, line, True)
        if (n_atoms, n_bonds) != (announced_atoms, announced_bonds):
            raise FormatError(
                f"{announced_atoms} atoms and {announced_bonds} bonds are announced, {n_atoms} and {n_bonds} given"
            )
        if problems:
            raise FormatError(problems[0])
        return self.last if self._as_before() else self._v3000_graph()

    cdef bint _v3000_atom(self, const char *p, const char *end, Py_ssize_t line, list problems) except -1:
        """Coordinates of an atom, and all else into the text of the graph; False if something is missing."""
        cdef const char *c = p
        cdef const char *start
        cdef int i
        if not (word(&c, end, &start) and word(&c, end, &start)):
            return False
        put(&self.atoms, p, c - p)
        for i in range(3):
            if not (word(&c, end, &start) and self._coordinate(start, c, line, problems)):
                return False
        put(&self.atoms, c, end - c)
        put(&self.atoms, b"\n", 1)
        put(&self.atom_lines, <const char *>&line, sizeof(Py_ssize_t))
        return True

    cdef Topology _v3000_graph(self):
        """The graph in the kept text of atoms and bonds."""
        cdef dict place = {}
        cdef list elements = [], charges = [], bonds = []
        cdef Py_ssize_t row, line
        for row, words in enumerate(rows_of(&self.atoms)):
            line = (<Py_ssize_t *>self.atom_lines.at)[row]
            name = words[0].decode("utf-8", "replace")
            if name in place:
                raise FormatError(f"line {line}: the atom index {name} is given twice")
            place[name] = row
            elements.append(self._label(words[1], line, False))
            charges.append(0)
            for more in words[2:]:
                if more[:4].upper() == b"CHG=":
                    try:
                        charges[row] = int(more[4:])
                    except ValueError:
                        raise FormatError(f"line {line}: {more.decode('utf-8', 'replace')!r} is no charge") from None
        for row, words in enumerate(rows_of(&self.bonds, 0)):
            line = (<Py_ssize_t *>self.bond_lines.at)[row]
            try:
                names = words[2].decode("utf-8", "replace"), words[3].decode("utf-8", "replace")
                kind = int(words[1])
            except (ValueError, IndexError):
                text = b" ".join(words).decode("utf-8", "replace")[:50]
                raise FormatError(f"line {line}: {text!r} is not index, type, two atoms") from None
            for name in names:
                if name not in place:
                    raise FormatError(f"line {line}: the bond names the atom {name}, which is not there")
            i, j = place[names[0]], place[names[1]]
            check_bond(i, j, len(place), line)
            bonds.append((i, j, kind))
        check_distinct(bonds)
        return self._keep(elements, bonds, charges)

    # -- MOL2 ---------------------------------------------------------------------------------------------------------

    cdef Topology _mol2(self):
        cdef const char *p = self.begin
        cdef const char *end
        cdef const char *c
        cdef const char *start
        cdef Py_ssize_t line = self.line - 1, n_atoms = 0, n_bonds = 0
        cdef long long announced_atoms = -1, announced_bonds = -1
        cdef int section = 0
        cdef bint counted = False
        cdef list problems = []
        if self.charges:
            raise FormatError("MOL2 has no formal charges to compare: give SDF, or leave out --charges")
        put(&self.atoms, b"MOL2\n", 5)
        while p < self.stop:
            line += 1
            end = line_end(p, self.stop)
            if line == self.line + 2:
                c = p
                counted = word(&c, end, &start) and whole(start, c, &announced_atoms)
                if counted and word(&c, end, &start):
                    counted = whole(start, c, &announced_bonds)
            if starts(p, end, b"@<TRIPOS>", 9):
                name = PyBytes_FromStringAndSize(p + 9, end - p - 9).strip()
                section = 1 if name == b"ATOM" else 2 if name == b"BOND" else 0
            elif section == 0 or p[0] == c"#" or empty(p, end):
                pass
            elif section == 1:
                n_atoms += 1
                if not self._mol2_atom(p, end, line, problems):
                    problems.append(f"line {line}: {quoted(p, end, 50)} is not id, name, x, y, z, type")
            else:
                n_bonds += 1
                put(&self.bonds, p, end - p)
                put(&self.bonds, b"\n", 1)
                put(&self.bond_lines, <const char *>&line, sizeof(Py_ssize_t))
            p = after(end, self.stop)
        if not counted:
            raise FormatError(
                f"line {self.line + 2}: expected the numbers of atoms and bonds two lines after {MOLECULE}"
            )
        if announced_bonds == -1:       # the number may be left out
            announced_bonds = n_bonds
        if (n_atoms, n_bonds) != (announced_atoms, announced_bonds):
            raise FormatError(
                f"{announced_atoms} atoms and {announced_bonds} bonds are announced, {n_atoms} and {n_bonds} given: "
                "is the record cut off?"
            )
        if problems:
            raise FormatError(problems[0])
        return self.last if self._as_before() else self._mol2_graph()

    cdef bint _mol2_atom(self, const char *p, const char *end, Py_ssize_t line, list problems) except -1:
        """Coordinates of an atom, and its id and type into the text of the graph; False if something is missing."""
        cdef const char *c = p
        cdef const char *start
        cdef int i
        word(&c, end, &start)
        put(&self.atoms, start, c - start)
        word(&c, end, &start)
        for i in range(3):
            if not (word(&c, end, &start) and self._coordinate(start, c, line, problems)):
                return False
        if not word(&c, end, &start):
            return False
        put(&self.atoms, b" ", 1)
        put(&self.atoms, start, c - start)
        put(&self.atoms, b"\n", 1)
        put(&self.atom_lines, <const char *>&line, sizeof(Py_ssize_t))
        return True

    cdef Topology _mol2_graph(self):
        """The graph in the kept text of atoms and bonds."""
        cdef dict place = {}
        cdef list elements = [], bonds = []
        cdef Py_ssize_t row, line
        for row, (number, kind) in enumerate(rows_of(&self.atoms)):
            line = (<Py_ssize_t *>self.atom_lines.at)[row]
            if number in place:
                raise FormatError(f"line {line}: the atom id {number.decode('utf-8', 'replace')} is given twice")
            place[number] = row
            elements.append(self._label(kind, line, True))
        for row, words in enumerate(rows_of(&self.bonds, 0)):
            line = (<Py_ssize_t *>self.bond_lines.at)[row]
            kind = words[3].lower() if len(words) > 3 else b""
            if kind not in BOND_TYPES and kind != NOT_CONNECTED:
                text = b" ".join(words).decode("utf-8", "replace")[:50]
                names = ", ".join([name.decode() for name in BOND_TYPES])
                raise FormatError(
                    f"line {line}: {text!r} is not id, two atoms and a bond type, which is one of {names}"
                )
            if words[1] not in place or words[2] not in place:
                names = b"\xe2\x80\x93".join(words[1:3]).decode("utf-8", "replace")
                raise FormatError(f"line {line}: the bond {names} names an atom that is not there")
            if kind == NOT_CONNECTED:
                continue
            i, j = place[words[1]], place[words[2]]
            check_bond(i, j, len(place), line)
            bonds.append((i, j, BOND_TYPES[kind]))
        check_distinct(bonds)
        return self._keep(elements, bonds, [])


cdef inline const char *stripped(const char *p, const char *end) noexcept nogil:
    """The end of a line without the blanks at its end."""
    while end > p and blank((end - 1)[0]):
        end -= 1
    return end


cdef inline bint same_word(const char *start, const char *end, const char *other, Py_ssize_t size) noexcept nogil:
    return end - start == size and memcmp(start, other, size) == 0


cdef list rows_of(const Buffer *text, Py_ssize_t header=1):
    """Words of each line, without the first `header` lines."""
    lines = PyBytes_FromStringAndSize(text.at, text.size).split(b"\n")
    return [line.split() for line in lines[header:-1]]


cdef int check_bond(Py_ssize_t i, Py_ssize_t j, Py_ssize_t n_atoms, Py_ssize_t line) except -1:
    """Refuse a bond (indices from 0) that joins what cannot be joined."""
    if not (0 <= i < n_atoms and 0 <= j < n_atoms):
        raise FormatError(f"line {line}: the bond {i + 1}–{j + 1} names an atom beyond the {n_atoms} of the record")
    if i == j:
        raise FormatError(f"line {line}: the bond {i + 1}–{j + 1} joins an atom to itself")
    return 0


cdef int check_distinct(list bonds) except -1:
    """Refuse a bond that is given twice."""
    cdef set seen = set()
    for i, j, _ in bonds:
        if (i, j) in seen or (j, i) in seen:
            raise FormatError(f"the bond {i + 1}–{j + 1} is given twice")
        seen.add((i, j))
    return 0


# -- numbers to text --------------------------------------------------------------------------------------------------

cdef inline int format_fast(double value, char *out) noexcept nogil:
    """``'%f '`` of a number from 0 to 10^6; returns its length, or 0 if rounding could go either way.

    The product is wrong by less than 10^-3 of the last digit, so a remainder further than that from a half is decided.
    """
    cdef double scaled = value * 1e6, below = floor(scaled)
    cdef unsigned long long digits, left
    cdef int length = 8, i
    cdef char[16] reverse
    if not 0.499 < scaled - below < 0.501:
        digits = <unsigned long long>below + (scaled - below > 0.5)
        i = 0
        left = digits // 1000000
        while True:
            reverse[i] = <char>(c"0" + left % 10)
            left //= 10
            i += 1
            if left == 0:
                break
        length = i + 8
        while i > 0:
            i -= 1
            out[0] = reverse[i]
            out += 1
        out[0] = c"."
        left = digits % 1000000
        for i in range(6, 0, -1):
            out[i] = <char>(c"0" + left % 10)
            left //= 10
        out[7] = c" "
        return length
    return 0


@cython.boundscheck(False)
@cython.wraparound(False)
def rows_text(const double[::1] values, Py_ssize_t columns, Py_ssize_t first, Py_ssize_t stop):
    """Rows ``first:stop`` of a matrix as C prints them with ``"%f "``, each ended by a newline.

    Parameters
    ----------
    values : buffer of float64, shape (rows · columns,)
        The matrix, row by row.
    columns, first, stop : int

    Returns
    -------
    str

    Raises
    ------
    IndexError
        If there are no such rows.

    Examples
    --------
    >>> rows_text(array("d", [0, 1.5, 2 / 3, float("inf")]), 2, 0, 2)
    '0.000000 1.500000 \\n0.666667 inf \\n'
    """
    cdef Buffer text
    cdef Py_ssize_t i, j
    cdef int length
    cdef double value
    if columns < 0 or not 0 <= first <= stop or stop * columns > values.shape[0]:
        raise IndexError(f"there are no rows {first}:{stop} of {columns} among {values.shape[0]} numbers")
    text.at = NULL
    text.size = text.room = 0
    try:
        for i in range(first, stop):
            for j in range(columns):
                reserve(&text, WIDTH)
                value = values[i * columns + j]
                length = 0
                if 0 < value < 1e6:
                    length = format_fast(value, text.at + text.size)
                if length == 0:
                    length = snprintf(text.at + text.size, WIDTH, b"%f ", value)
                text.size += length
            put(&text, b"\n", 1)
        return PyUnicode_DecodeASCII(text.at, text.size, NULL)
    finally:
        free(text.at)
