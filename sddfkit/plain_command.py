"""What the subcommands without Hydra share: how they end, and what is said when they cannot go on."""

import os
import sys
import traceback
from collections.abc import Callable


class UsageError(ValueError):
    """The command is wrong; the message says how."""


def ended(name: str, work: Callable[[], int]) -> int:
    """Do the work of ``sddfkit <name>`` and return the exit code: its own, 1 if it failed, 2 if it was asked wrongly.

    What is expected to go wrong (a store or cluster that cannot be used, input, disks) is said in a sentence.
    """
    try:
        return work()
    except ModuleNotFoundError as error:
        sentence = f"needs more than the base install ({error}): pip install 'sddfkit[label]'"
        print(f"sddfkit {name} {sentence}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except (RuntimeError, ValueError, OSError) as error:  # StoreError and ClusterError are RuntimeErrors
        if os.environ.get("SDDFKIT_DEBUG"):
            traceback.print_exception(error)
        print(f"sddfkit {name}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
