"""Atom symbols as files spell them."""

from flashrmsd_cy.errors import FormatError

SYMBOLS = (  # noqa: SIM905
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr "
    "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu "
    "Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr "
    "Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, 1)} | {"D": 1, "T": 1}
# Atoms without an element: any atom, lone pairs, polymer beads and the like. They match only their own kind.
NO_ELEMENT = frozenset("* A Q X M L LP R R# DU ANY HAL HET HEV AH QH XH MH POL MOD".split())  # noqa: SIM905


def atom_label(symbol: str) -> int | str:
    """Atomic number of a symbol in any case, with or without isotope, serial number or charge; isotopes of H are 1.

    Atoms without an element, such as ``*`` and ``R1``, are labelled by their name.

    Raises
    ------
    FormatError
        If there is no such element.

    Examples
    --------
    >>> atom_label("CL"), atom_label("D"), atom_label("3H"), atom_label("Zn2+"), atom_label("r1")
    (17, 1, 1, 30, 'R1')
    """
    name = symbol.strip().upper()
    if name in NO_ELEMENT or (name[:1] == "R" and name[1:].isdigit()):
        return name
    number = NUMBERS.get(name.strip("0123456789+-").capitalize())
    if number is None:
        raise FormatError(f"{symbol.strip()!r} is no element")
    return number


# Lower-case MOL2 types that begin with the letter of an AMBER type and are none.
NOT_AMBER = frozenset("cl co cr si se sn sb pt".split())  # noqa: SIM905


def sybyl_label(atom_type: str) -> int | str:
    """Atomic number of a MOL2 atom type; AMBER's types, in lower case, begin with their element.

    Examples
    --------
    >>> sybyl_label("C.ar"), sybyl_label("CL"), sybyl_label("cl"), sybyl_label("ca"), sybyl_label("Ca")
    (6, 17, 17, 6, 20)
    """
    symbol = atom_type.partition(".")[0]
    if symbol[:1] in {"h", "c", "n", "o", "s", "p"} and symbol not in NOT_AMBER:
        symbol = symbol[0]
    return atom_label(symbol)
