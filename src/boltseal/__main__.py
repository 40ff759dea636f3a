"""`python -m boltseal` and the console script."""

from __future__ import annotations

from boltseal.cli.root import run


def main() -> None:
    """The whole program; ends the process."""
    run()


if __name__ == "__main__":
    main()
