"""``python -m flashrmsd_cy``: the command ``flashrmsd``."""

from flashrmsd_cy.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
