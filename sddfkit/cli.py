"""The command line: compose a configuration, make the objects, call the workflow.

Nothing heavy is imported before a verb is known, so that help is instant.
"""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sddfkit import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

VERBS = {
    "active": "the whole loop: molecules, labels, split, ensemble, rounds of active learning, a report",
    "label": "molecules to labelled records: the store, and a snapshot of them",
    "train": "an ensemble of energy models from a labelled snapshot",
}

HELP = """\
usage: sddfkit VERB [key=value ...] [-m]

From SMILES to DFT-labelled data and an ensemble of energy models that knows where it is wrong.

verbs
{verbs}

examples
  sddfkit active experiment=demo                          the main job on the molecules that ship with the package
  sddfkit active molecules=file molecules.path=mine.smi level=gfn2
                                                          your own molecules, a cheap level of theory
  sddfkit active -m experiment=smoke strategy=random,loss_predictor hydra/launcher=joblib
  sddfkit active --cfg job                                show the composed configuration and stop
  sddfkit active --help                                   all groups and what they can be

options
  -h, --help       this text         --version        the version
Everything a run makes lies under paths.root (./sddfkit-data, or the environment variable SDDFKIT_ROOT).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(HELP.format(verbs="\n".join(f"  {verb:<16} {text}" for verb, text in VERBS.items())))
        return 0
    if arguments[0] == "--version":
        print(f"sddfkit {__version__}")
        return 0
    if arguments[0] not in VERBS:
        import difflib

        near = difflib.get_close_matches(arguments[0], VERBS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"sddfkit: {arguments[0]!r} is no verb, the verbs are {', '.join(VERBS)}{hint}", file=sys.stderr)
        return 2
    return _run(arguments[0], arguments[1:])


def _run(verb: str, overrides: list[str]) -> int:
    _quiet()
    for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal is no reason to leave engines behind
        signal.signal(number, _as_interrupt)
    try:
        import hydra
    except ModuleNotFoundError as error:
        print(f"sddfkit {verb} needs more than the base install ({error}): pip install 'sddfkit[all]'", file=sys.stderr)
        return 1
    sys.argv = [f"sddfkit {verb}", *overrides]
    try:
        hydra.main(version_base="1.3", config_path="pkg://sddfkit.conf", config_name=verb)(run_job)()
    except KeyboardInterrupt:
        print(
            "\nstopped. Every finished calculation and every trained member is safe; "
            "the same command goes on from there.",
            file=sys.stderr,
        )
        return 130
    return 0


def run_job(cfg: "DictConfig") -> None:
    """Do one job as Hydra composed it: the whole of a plain run, or one member of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    from sddfkit import verbs

    job = HydraConfig.get()
    verb = str(job.job.config_name)
    folder = Path(job.runtime.output_dir)
    command = shlex.join(["sddfkit", verb, *job.overrides.task])
    try:
        made = getattr(verbs, verb)(cfg, folder, command=command)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("SDDFKIT_DEBUG") or job.mode.name == "MULTIRUN":
            raise
        print(f"\nsddfkit {verb} failed: {error}\n(SDDFKIT_DEBUG=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from error
    print(made)


def _quiet() -> None:
    """Keep other libraries' chatter off the screen; our own warnings stay."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    for name in ("mlflow", "alembic", "pytorch_lightning", "lightning_fabric", "ipyparallel", "rdkit"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt
