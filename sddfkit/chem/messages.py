"""RDKit's own words for why it refused something, without a line on the terminal (see also ``rdBase.BlockLogs``)."""

import logging
from collections.abc import Callable

from rdkit import rdBase


class _Lines(logging.Handler):
    """Collects (level, text) of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        # RDKit opens each line with "[06:54:34] "; a reason must not depend on the hour.
        text = record.getMessage().strip()
        if text.startswith("[") and "] " in text:
            text = text.split("] ", 1)[1]
        self.lines.append((record.levelno, text))


def reason_for(call: Callable[[], object]) -> str:
    """Run a call that is known to fail and return RDKit's explanation as one line ("" if RDKit says nothing).

    RDKit's log is global to the process, so this is done only after a failure, never around work that succeeds.
    An exception that RDKit raises counts as its explanation.

    >>> from rdkit import Chem
    >>> reason_for(lambda: Chem.MolFromSmiles("C1CC"))
    "SMILES Parse Error: unclosed ring for input: 'C1CC'"
    """
    handler, logger = _Lines(), logging.getLogger("rdkit")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    silenced = [line.removesuffix(":disabled") for line in rdBase.LogStatus().split() if line.endswith(":disabled")]
    rdBase.LogToPythonLogger()
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING)
    try:
        for channel in ("rdApp.error", "rdApp.warning"):
            rdBase.EnableLog(channel)
        call()
    except (ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    finally:
        rdBase.LogToCppStreams()  # this switches every channel on
        for channel in silenced:
            rdBase.DisableLog(channel)
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)
    # For a syntax error RDKit goes on with a drawing and then repeats itself: the first error says it all.
    errors = [text for severity, text in handler.lines if severity >= logging.ERROR]
    return next(iter(errors or [text for _, text in handler.lines]), "")
