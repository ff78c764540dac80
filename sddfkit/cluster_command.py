"""``sddfkit cluster``: engines that stay from one job to the next, and a look at all clusters.

Help loads nothing; a command loads the factory.
"""

import argparse
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sddfkit.plain_command import UsageError, ended

if TYPE_CHECKING:
    from sddfkit.factory.cluster import Cluster
    from sddfkit.factory.ownership import Owner

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
ANSWER_LIMIT_S: Final = 5.0


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit code: 0 done, 1 failed, 2 used wrongly."""
    given = _parser().parse_args(argv)
    return ended("cluster", lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    from sddfkit.overrides import SettingsError

    try:
        return int(given.run(given))
    except SettingsError as error:
        raise UsageError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sddfkit cluster",
        description="Engines that stay from one job to the next, and a look at all clusters. Jobs use them by "
        "cluster=running.",
        epilog="Exit codes: 0 done, 1 failed, 2 the command is wrong.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument(
            "--root",
            type=Path,
            metavar="FOLDER",
            help="where everything is kept (default: SDDFKIT_ROOT or ./sddfkit-data)",
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("start", _start, "a controller and engines that go on when this command has ended")
    sub.add_argument("--name", default="default", help="by which jobs and `stop` know it (default: default)")
    sub.add_argument("--config-dir", metavar="DIR", help="search DIR for groups of your own, too")
    sub.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of a job: cluster=slurm cluster.engines=64")

    sub = command("status", _status, "all clusters: engines, what they do, since when, who uses them")
    sub.add_argument("--json", action="store_true", help="a JSON list")

    sub = command("stop", _stop, "end a cluster that was started here, with all of its processes and jobs")
    sub.add_argument("name", nargs="?", metavar="NAME", help="which one (default: default)")
    sub.add_argument(
        "--all",
        action="store_true",
        help="every one with its controller on this machine, and what dead jobs have left of theirs",
    )
    return parser


def _start(given: argparse.Namespace) -> int:
    from sddfkit.factory.ownership import BATCH_SYSTEMS

    _check_name(given.name)
    logging.getLogger("ipyparallel").setLevel(logging.ERROR)
    cluster = _configured(given)
    came = cluster.start_and_leave()
    asked = (
        f"{cluster.engines} engines are asked of {cluster.launcher}"
        if cluster.launcher in BATCH_SYSTEMS
        else f"{came} engines by {cluster.launcher}"
    )
    named = "" if given.name == "default" else f" cluster.name={given.name}"
    print(f"{given.name}: {asked}; kept in {cluster.folder}")
    print(f"use it by cluster=running{named}, end it by sddfkit cluster stop{'' if not named else ' ' + given.name}")
    return 0


def _configured(given: argparse.Namespace) -> "Cluster":
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from sddfkit.config import SettingsError, load
    from sddfkit.factory.cluster import Cluster

    for override in given.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if "=" not in override or key.partition(".")[0] not in ("cluster", "paths"):
            raise UsageError(f"{override!r} says nothing of a cluster: expected cluster=KIND, cluster.SETTING=VALUE")
    root = [] if given.root is None else [f"paths.root={json.dumps(str(given.root.absolute()))}"]
    cfg = load("label", [*given.overrides, *root], config_dir=given.config_dir)
    try:
        cluster = instantiate(cfg.cluster)(Path(cfg.paths.root) / "clusters" / given.name)
    except InstantiationException as error:
        raise SettingsError(f"cluster: {error.__cause__ or error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(f"cluster: {error}") from error
    if not isinstance(cluster, Cluster) or cluster.foreign:
        raise UsageError("cluster=connect and cluster=running are clusters that somebody has started before")
    return cluster


def _status(given: argparse.Namespace) -> int:
    found = [_look(folder) for folder in _folders(given)]
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print(f"no cluster in {_clusters(given)}: sddfkit cluster start makes one")
        return 0
    head = ("name", "state", "launcher", "engines", "busy", "idle", "since", "used by", "folder")
    rows = [
        (
            row["name"], row["state"], row["launcher"] or "?", f"{_cell(row['registered'])}/{_cell(row['asked'])}",
            _cell(row["busy"]), _cell(row["idle"]), row["since"] or "?", ", ".join(row["used_by"]) or "nobody",
            row["folder"],
        )
        for row in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for line in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _look(folder: Path) -> dict[str, Any]:
    """Return what can be known of the cluster in a folder.

    state: ``remains`` (until it is stopped), ``of a job`` (ends with it), ``left`` (its job is dead), ``silent`` (its
    controller does not answer).
    """
    from sddfkit.factory.cluster import read_settings
    from sddfkit.factory.ownership import read_owner, users

    owner = read_owner(folder)
    about = read_settings(folder)
    work = _work(folder)
    if owner is None or not owner.lives():
        state = "left"
    elif work is None:
        state = "silent"
    else:
        state = "remains" if owner.remains else "of a job"
    mine = [owner] if owner is not None and owner.lives() and not owner.remains else []
    return {
        "name": folder.name,
        "state": state,
        "launcher": about.get("launcher"),
        "asked": about.get("engines"),
        "registered": None if work is None else len(work),
        "busy": None if work is None else sum(work.values()),
        "idle": None if work is None else len(work) - sum(work.values()),
        "since": about.get("since"),
        "used_by": [_named(user) for user in [*mine, *users(folder)]],
        "folder": str(folder),
    }


def _work(folder: Path) -> dict[int, bool] | None:
    """Return for each engine whether it has something to do; None if the controller does not answer."""
    import ipyparallel as ipp

    from sddfkit.factory.cluster import answers, client_file

    file = client_file(folder)
    if not answers(file):
        return None
    log = logging.getLogger("traitlets")
    log.setLevel(logging.ERROR)
    try:
        client = ipp.Client(str(file), timeout=ANSWER_LIMIT_S)
    except (TimeoutError, ipp.error.TimeoutError, OSError):
        return None
    try:
        told = client.queue_status() if client.ids else {}
        return {int(engine): bool(of["queue"] or of["tasks"]) for engine, of in told.items() if str(engine).isdecimal()}
    finally:
        client.close(linger=0)


def _stop(given: argparse.Namespace) -> int:
    from sddfkit.factory.ownership import alone, end_abandoned, end_cluster, users

    if given.all and given.name:
        raise UsageError("either a name or --all")
    clusters = _clusters(given)
    folders = [clusters / _check_name(given.name or "default")]
    if given.all:
        folders = [folder for folder in _folders(given) if _remains_here(folder)]
    for folder in folders:
        _refuse_to_stop(folder)
        using = users(folder)
        with alone(clusters):
            ended = end_cluster(folder)
        print(f"{folder.name}: ended, {ended} processes on this machine")
        for user in using:
            print(f"  {_named(user)} was using it: what it had finished is kept, and it goes on if started again")
    if given.all:
        ended = end_abandoned(clusters)
        print(f"{len(folders)} clusters ended" + (f", and {ended} processes that dead jobs had left" if ended else ""))
    return 0


def _remains_here(folder: Path) -> bool:
    import socket

    from sddfkit.factory.ownership import read_owner

    owner = read_owner(folder)
    return owner is not None and owner.remains and owner.host == socket.gethostname()


def _refuse_to_stop(folder: Path) -> None:
    import socket

    from sddfkit.factory.cluster import ClusterError
    from sddfkit.factory.ownership import read_owner

    owner = read_owner(folder)
    if owner is None:
        raise ClusterError(f"there is no cluster {folder.name!r} in {folder.parent}: sddfkit cluster status lists them")
    if owner.host != socket.gethostname():
        raise ClusterError(f"{folder.name!r} has its controller on {owner.host}: give the same command there")
    if owner.lives() and not owner.remains:
        raise ClusterError(f"{folder.name!r} belongs to the job of process {owner.pid}, and ends with it: stop that")


def _clusters(given: argparse.Namespace) -> Path:
    root = given.root or Path(os.environ.get("SDDFKIT_ROOT") or "sddfkit-data")
    return Path(root).expanduser().absolute() / "clusters"


def _folders(given: argparse.Namespace) -> list[Path]:
    from sddfkit.factory.ownership import OWNER_FILE

    return sorted(path.parent for path in _clusters(given).glob(f"*/{OWNER_FILE}"))


def _check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name: expected letters, digits, '_', '.' and '-', at most 64")
    return name


def _named(user: "Owner") -> str:
    return f"process {user.pid} on {user.host}"


def _cell(value: int | None) -> str:
    return "?" if value is None else str(value)
