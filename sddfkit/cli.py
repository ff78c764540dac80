"""The command line: compose a configuration, make the objects, call the workflow.

Nothing heavy is imported before a verb is known, so that help is instant.
"""

import errno
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sddfkit import __version__, runs

if TYPE_CHECKING:
    import argparse

    from omegaconf import DictConfig

VERBS = {
    "active": "the whole loop: molecules, labels, split, ensemble, rounds of active learning, a report",
    "label": "molecules to labelled records: the store, and a snapshot of them",
    "train": "an ensemble of energy models from a labelled snapshot",
    "predict": "energies, forces and doubt of a finished run's ensemble on other molecules",
    "screen": "molecules by the million from a catalogue: filtered, ranked by predicted error, sampled",
    "evaluate": "how good a finished run's ensemble is on labelled records that it has not seen",
    "md": "Langevin dynamics by a finished run's ensemble, and the frames it is least sure of, to label next",
}

COMMANDS = {
    "store": "what the store holds: stats, failures, retry, verify, merge, export, import",
    "cluster": "engines that stay from one job to the next: start, status, stop",
    "watch": "how far a job is, live: counts, time left, cost, engines, failures",
}

HELP = """\
usage: sddfkit VERB [key=value ...] [-m]

From SMILES to DFT-labelled data and an ensemble of energy models that knows where it is wrong.

verbs
{verbs}

for a look and for repairs (sddfkit store --help, sddfkit watch --help)
{commands}

examples
  sddfkit active experiment=demo                          the main job on the molecules that ship with the package
  sddfkit active molecules=file molecules.path=mine.smi level=gfn2
                                                          your own molecules, a cheap level of theory
  sddfkit active -m experiment=smoke strategy=random,loss_predictor hydra/launcher=joblib
                                                          a sweep: one table, one parent run, the best ensemble
  sddfkit predict run=latest molecules=file molecules.path=new.smi
  sddfkit active --cfg job                                show the composed configuration and stop
  sddfkit active --help                                   all groups and what they can be

options
  -h, --help       this text         --version        the version
  -m               a sweep over all lists a,b,c       --config-dir DIR   search DIR for groups of your own, too
  --debug          where an error came from
Everything a run makes lies under paths.root (./sddfkit-data, or the environment variable SDDFKIT_ROOT).
A job that was interrupted goes on when the same command is given again.
Exit codes: 0 done, 1 failed, 2 the command is wrong, 130 interrupted.
"""
DEBUG = "SDDFKIT_DEBUG"
_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    try:
        code = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except KeyboardInterrupt:  # before anything was begun
        return 130
    except BrokenPipeError:  # the reader of what we print (head, say) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _main(arguments: list[str]) -> int:
    if "--debug" in arguments:
        arguments.remove("--debug")
        os.environ[DEBUG] = "1"
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        verbs, commands = ("\n".join(f"  {name:<16} {text}" for name, text in of.items()) for of in (VERBS, COMMANDS))
        print(HELP.format(verbs=verbs, commands=commands))
        return 0
    if arguments[0] == "--version":
        print(f"sddfkit {__version__}")
        return 0
    if arguments[0] in COMMANDS:
        from importlib import import_module

        code: int = import_module(f"sddfkit.{arguments[0]}_command").main(arguments[1:])
        return code
    if arguments[0] not in VERBS:
        import difflib

        near = difflib.get_close_matches(arguments[0], [*VERBS, *COMMANDS], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"sddfkit: {arguments[0]!r} is no verb, the verbs are {', '.join(VERBS)}{hint}", file=sys.stderr)
        return 2
    return _run(arguments[0], arguments[1:])


def _run(verb: str, arguments: list[str]) -> int:
    _quiet()
    _stop_in_order()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # its errors reach us, who tell them
    if path := os.environ.get("PYTHONPATH"):  # modules of one's own must be found by processes that run elsewhere, too
        os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep))
    try:
        from hydra._internal.utils import get_args_parser

        from sddfkit.config import absolute_paths
        from sddfkit.overrides import SettingsError, composed
    except ModuleNotFoundError as error:
        print(f"sddfkit {verb} needs more than the base install ({error}): pip install 'sddfkit[all]'", file=sys.stderr)
        return 1
    parser = get_args_parser()
    parser.prog = f"sddfkit {verb}"
    given = parser.parse_args(arguments)
    if given.cfg or given.help or given.hydra_help or given.info is not None or given.shell_completion:
        return _hydra(verb, given, arguments, run_job)
    try:
        cfg = absolute_paths(composed(verb, given.overrides, config_dir=given.config_dir, multirun=given.multirun))
    except SettingsError as error:
        return _tell(verb, error)
    root = Path(cfg.paths.root)
    try:
        if given.multirun:
            return _sweep(verb, given, arguments, cfg, root)
        return _single(verb, given, arguments, cfg, root)
    except KeyboardInterrupt:
        store = cfg.store.path if "store" in cfg else root / "store.sqlite"
        print(f"\nstopped; {runs.what_is_safe(root, store)}.\nThe same command goes on from there.", file=sys.stderr)
        return 130
    except Exception as error:
        return _tell(verb, error)


def _single(verb: str, given: "argparse.Namespace", arguments: list[str], cfg: "DictConfig", root: Path) -> int:
    from sddfkit.config import text

    folder = Path(cfg.hydra.run.dir).absolute()
    if not any(override.startswith("hydra.run.dir=") for override in given.overrides):
        before = runs.unfinished(root / "runs", runs.RUN, {"verb": verb}, text(cfg))
        if before:
            print(f"going on with the unfinished run {before}", flush=True)
        folder = before or runs.fresh(folder)
    codes: list[int] = []
    code = _hydra(verb, given, [*arguments, _at("hydra.run.dir", folder)], lambda cfg: codes.append(run_job(cfg)))
    return code or codes[0]


def _sweep(verb: str, given: "argparse.Namespace", arguments: list[str], cfg: "DictConfig", root: Path) -> int:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from sddfkit import sweep
    from sddfkit.config import plain
    from sddfkit.training.sweep_run import SweepRun
    from sddfkit.workflows.console import show_table

    parsed = OverridesParser.create().parse_overrides(given.overrides)
    varied = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    identity = {"verb": verb, "overrides": given.overrides, "root": str(root)}
    folder = Path(cfg.hydra.sweep.dir).absolute()
    if not any(override.startswith("hydra.sweep.dir=") for override in given.overrides):
        before = runs.unfinished(root / "runs", runs.SWEEP, identity)
        if before:
            print(f"going on with the unfinished sweep {before}", flush=True)
        folder = before or runs.fresh(folder)
    with runs.claimed(folder, runs.SWEEP, identity) as row:
        tracked = None
        if "logger" in cfg:
            settings = plain(cfg)["logger"]
            tracked = SweepRun(settings, run_name=folder.name, overrides=given.overrides, folder=folder)
        status = "KILLED"
        try:
            code = _hydra(verb, given, [*arguments, _at("hydra.sweep.dir", folder)], run_job)
            status = "FAILED"
        finally:
            rows = sweep.summary(folder, varied)
            best = sweep.best_of(rows)
            done = bool(rows) and all(item["state"] == runs.FINISHED for item in rows)
            files = sweep.keep(folder, rows, best)
            if tracked:
                tracked.finish(rows, best, files, "FINISHED" if done else status)
        row["state"] = runs.FINISHED if done else "failed"
    if code:
        return code
    columns = {"job": "job", **{key: key for key in varied}, "state": "state"}
    columns |= {"labels": "n_labelled_train"} if best is not None else {}
    for fold in ("validation", "test") if best is not None else ():
        columns[f"{fold} E kcal/mol"] = f"{fold}_energy_mae_kcal_mol"
        columns[f"{fold} F kcal/mol/Å"] = f"{fold}_force_mae_kcal_mol_A"
    show_table("mean absolute errors", columns, [[_cell(item.get(name)) for name in columns.values()] for item in rows])
    for item in rows:
        if item["state"] != runs.FINISHED:
            print(f"job {item['job']} {item['state']}: {item['reason']}", file=sys.stderr)
    print(f"sweep: {folder / sweep.SUMMARY}")
    if best is not None:
        print(f"best: job {rows[best]['job']} by its error on the validation fold; its ensemble: {folder / sweep.BEST}")
    wrong = all(item["state"] == runs.FINISHED or item["reason"].startswith("SettingsError") for item in rows)
    return 0 if done else 2 if wrong else 1


def _hydra(verb: str, given: "argparse.Namespace", arguments: list[str], task: Callable[["DictConfig"], Any]) -> int:
    """Let Hydra compose and run; return 2 where it refuses the configuration."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from sddfkit.overrides import SettingsError, explained

    sys.argv = [f"sddfkit {verb}", *arguments]
    try:
        hydra.main(version_base="1.3", config_path="pkg://sddfkit.conf", config_name=verb)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        return _tell(verb, SettingsError(explained(error, verb, given.overrides, given.config_dir)))
    except ValueError as error:  # flags that do not go together
        return _tell(verb, SettingsError(str(error)))
    return 0


def run_job(cfg: "DictConfig") -> int:
    """Do one job as Hydra composed it, the whole of a plain run or one of a sweep, and return its exit code."""
    from hydra.core.hydra_config import HydraConfig

    from sddfkit import sweep, verbs

    job = HydraConfig.get()
    verb = str(job.job.config_name)
    folder = Path(job.runtime.output_dir)
    command = shlex.join(["sddfkit", verb, *job.overrides.task])
    if job.mode.name == "MULTIRUN":
        _quiet()  # in a process of the launcher's
        sweep.end_with_sweep(folder.parent)
        if runs.state_of(folder).get("state") == runs.FINISHED:
            print(f"finished before: {folder}", flush=True)
            return 0
    try:
        print(getattr(verbs, verb)(cfg, folder, command=command), flush=True)
    except Exception as error:
        return _tell(verb, error)
    return 0


def _tell(verb: str, error: Exception) -> int:
    """Say what went wrong in a sentence, with the traceback if that is wanted, and return the exit code."""
    from sddfkit.overrides import SettingsError

    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    usage = isinstance(error, SettingsError)
    where = "" if usage or os.environ.get(DEBUG) else "\n(--debug shows where it came from)"
    print(f"\nsddfkit {verb}: {_sentence(error)}{where}", file=sys.stderr, flush=True)
    return 2 if usage else 1


def _sentence(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in _OUT_OF_SPACE:
        return (
            f"the disk is full ({error}): free some space, or set paths.root to another disk; "
            "what is finished is kept, and the same command goes on from there"
        )
    if number in _NOT_ALLOWED:
        return f"{error}: set paths.root to a folder that can be written, or see to the permissions of this one"
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {error}; this should not happen: please report it with what --debug shows"


def _at(key: str, folder: Path) -> str:
    from sddfkit.overrides import quoted

    return f"{key}={quoted(str(folder))}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _quiet() -> None:
    """Keep other libraries' chatter off the screen; our own warnings stay."""
    # The job's log lies on the same disk as its data: when that is full, one sentence says so, not the log as well.
    logging.raiseExceptions = False
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    # A sweep that is stopped leaves semaphores of its launcher to their tracker, which says so although it clears them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::UserWarning:multiprocessing.resource_tracker")
    for name in ("mlflow", "alembic", "pytorch_lightning", "lightning_fabric", "ipyparallel", "rdkit"):
        logging.getLogger(name).setLevel(logging.ERROR)


class _Stopped(KeyboardInterrupt):
    """A signal has come.

    Python remembers a plain KeyboardInterrupt that comes upon an `exec`, of which imports do many, and ends by SIGINT
    whatever exit code is asked for.
    """


def _stop_in_order() -> None:
    """Let the first signal stop the job in order and a third one at once; one between must not cut the clean-up."""
    received = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received == 1:
            raise _Stopped
        if received == 2:
            print("\nstopping: engines end, the store is closed (once more to stop at once)", file=sys.stderr)
        else:
            os._exit(130)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a closed terminal must not leave engines behind
        signal.signal(number, stop)
