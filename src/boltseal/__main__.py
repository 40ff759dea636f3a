"""Entry point of `python -m boltseal` and of the console script."""

from __future__ import annotations

from boltseal.cli.root import run


def main() -> None:
    """Run the command line; ends the process."""
    run()


if __name__ == "__main__":
    main()
