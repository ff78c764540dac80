"""Where a coordinator's engines leave results, and what dead coordinators' engines left.

Beside a file there is one spool. On a server several coordinators may have the same folder, each with a spool of its
own in it; whoever comes next takes over the spool of one that is gone.
"""

from collections.abc import Collection
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sddfkit.factory.database import Database, StoreError
from sddfkit.factory.sqlite import remedy

if TYPE_CHECKING:
    from sddfkit.qc.spool import Owner

TOKENS_KEPT: Final = 20
LEASE_FILE: Final = ".lease"


def open_spool(folder: Path, owner: "Owner", lease_id: int | None, living: Collection[int]) -> Path:
    """Make a spool with a new token, by which engines see whether they share the folder, and return it.

    Parameters
    ----------
    folder
        The spool itself, or the folder of all coordinators' spools.
    owner
        With the token.
    lease_id
        Who opens it, where several coordinators may; None where `folder` is the spool.
    living
        Leases of other coordinators, whose spools are left alone.
    """
    from sddfkit.qc.spool import TOKEN_FILE, write_text

    own = folder
    try:
        if lease_id is not None:
            own, dead = _free_spool(folder, owner.store[:8], living)
            write_text(own / LEASE_FILE, str(lease_id))
            for other in dead:
                _inherit(other, own)
        write_text(own / TOKEN_FILE, "\n".join([owner.token, *_words(own / TOKEN_FILE)[: TOKENS_KEPT - 1]]))
    except OSError as error:
        raise StoreError(f"the spool {own} cannot be written: {error.strerror}; {remedy(error)}") from error
    return own


def _free_spool(folder: Path, store: str, living: Collection[int]) -> tuple[Path, list[Path]]:
    """Return the spool to take, and others of coordinators that are dead.

    One whose coordinator is gone comes first: its engines may still be at work, and go on writing into it.
    """
    held = {str(number) for number in living}
    found = sorted(folder.glob(f"{store}-*"), key=lambda path: (len(path.name), path.name))
    free = [path for path in found if not held.intersection(_words(path / LEASE_FILE))]
    if free:
        return free[0], free[1:]
    return next(path for n in count(1) if not (path := folder / f"{store}-{n}").exists()), []


def _words(path: Path) -> list[str]:
    """Return a spool's lease, or its tokens, newest first: engines that outlived an opening still have its token."""
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def spools(database: Database) -> list[Path]:
    """Return the spools of all coordinators, as far as this machine sees them."""
    if database.spool is None:
        return []
    return (
        sorted(path.parent for path in database.spool.glob(f"*/{LEASE_FILE}")) if database.shared else [database.spool]
    )


def spooled(database: Database) -> int:
    """Return how many results wait in them."""
    return sum(1 for folder in spools(database) for _ in folder.glob("[!.]*.json"))


def _inherit(dead: Path, own: Path) -> None:
    """Move results to where they are looked for; those that follow wait for the next coordinator."""
    for path in dead.glob("[!.]*.json"):
        path.replace(own / path.name)
