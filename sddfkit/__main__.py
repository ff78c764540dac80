"""``python -m sddfkit``: the same as the command ``sddfkit``."""

import sys

from sddfkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
