"""Entry point of `python -m boltseal` and of the console script."""

from __future__ import annotations

import gc

from boltseal.cli.root import run


def main() -> None:
    """Run the command line; ends the process."""
    try:
        run()
    finally:
        gc.freeze()  # Python would search all objects for cycles before the process ends: a sixth of the time of `lock`


if __name__ == "__main__":
    main()
