"""Where a coordinator's engines leave results, and what dead coordinators' engines left.

Beside a file there is one spool. On a server several coordinators may have the same folder, each with a spool of its
own in it, named after the store and the coordinator's lease; what lies in those of the dead is moved to the next one.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Final

from sddfkit.factory.database import Database, StoreError
from sddfkit.factory.sqlite import remedy
from sddfkit.qc.spool import TOKEN_FILE, Owner, write_text

TOKENS_KEPT: Final = 20


def open_spool(folder: Path, owner: Owner, lease_id: int | None, living: Collection[int]) -> Path:
    """Make a spool with a new token, by which engines see whether they share the folder, and return it.

    Parameters
    ----------
    folder
        The spool itself, or the folder of all coordinators' spools.
    owner
        With the token.
    lease_id
        Names the spool in `folder`; None if `folder` is the spool.
    living
        Leases of other coordinators, whose spools are left alone.
    """
    own = folder if lease_id is None else folder / f"{owner.store[:8]}-{lease_id}"
    try:
        write_text(own / TOKEN_FILE, "\n".join([owner.token, *_tokens(own)[: TOKENS_KEPT - 1]]))
        if lease_id is not None:
            for other in sorted(folder.glob(f"{owner.store[:8]}-*")):
                if other.name.rpartition("-")[2] not in {str(number) for number in (lease_id, *living)}:
                    _inherit(other, own)
    except OSError as error:
        raise StoreError(f"the spool {own} cannot be written: {error.strerror}; {remedy(error)}") from error
    return own


def _tokens(spool: Path) -> list[str]:
    """Return the tokens of earlier openings: engines that outlived them still have work that was given out then."""
    try:
        return (spool / TOKEN_FILE).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return []


def close_spool(spool: Path | None, *, shared: bool) -> None:
    """Remove a coordinator's own spool, unless something is left in it for the next one."""
    if spool is not None and shared:
        _remove(spool)


def spooled(database: Database) -> int:
    """Return how many results wait in a store's spools, as far as this machine sees them."""
    if database.spool is None:
        return 0
    return sum(1 for _ in database.spool.glob("*/[!.]*.json" if database.shared else "[!.]*.json"))


def _inherit(dead: Path, own: Path) -> None:
    """Move results; the token goes, so that engines still at work keep theirs until they are handed over."""
    (dead / TOKEN_FILE).unlink(missing_ok=True)
    for path in dead.glob("[!.]*.json"):
        path.replace(own / path.name)
    _remove(dead)


def _remove(spool: Path) -> None:
    with contextlib.suppress(OSError):  # not empty
        (spool / TOKEN_FILE).unlink(missing_ok=True)
        spool.rmdir()
