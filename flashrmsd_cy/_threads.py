"""The pairs of one molecule, shared among threads."""

from __future__ import annotations

from array import array

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from flashrmsd_cy._molecule import Molecule
    from flashrmsd_cy._search import Search

    Pair = tuple[int, int]

NO_MORE = 1 << 60  # a row that no matrix has


def share(molecule: Molecule, threads: int, work: Callable[[Search, array[int]], Pair | None]) -> Pair | None:
    """Do the work in several threads, this one among them, each with a search of its own and one common counter.

    `work` returns the pair at which a limit stopped it, or None; so does this. An error in one thread, or an interrupt,
    stops the others in the middle of a pair and is raised here.
    """
    counter = array("q", [0])
    ends: list[Pair | BaseException | None] = []

    def run() -> None:
        search = molecule._search()
        try:
            end: Pair | BaseException | None = work(search, counter)
        except BaseException as error:
            end = error
        if end is not None:
            counter[0] = NO_MORE  # the others stop, too
        molecule._searches.append(search)
        ends.append(end)

    helpers = []
    if threads > 1:
        from threading import Thread  # the command seldom needs it

        helpers = [Thread(target=run) for _ in range(threads - 1)]
    for helper in helpers:
        helper.start()
    run()
    try:
        for helper in helpers:
            helper.join()
    except BaseException:  # an interrupt while the others were at their last pairs
        counter[0] = NO_MORE
        for helper in helpers:
            helper.join()
        raise
    for end in ends:
        if isinstance(end, BaseException):
            raise end
    return next((end for end in ends if isinstance(end, tuple)), None)
