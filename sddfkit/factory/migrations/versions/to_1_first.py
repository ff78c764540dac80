"""Version 1, where all stores began."""

revision = "1"
down_revision = None


def upgrade() -> None:
    """Change nothing: there is no earlier version."""
