"""Write the stand-ins of the benchmarks, each into a folder of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import STAND_INS, find_stand_in, write_stand_in

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Args:
        arguments: of the command; those of the process when None.

    Returns:
        Exit status: 0, or 2 after a wrong argument.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hf_videollm.synthetic.benchmarks",
        description="Write small synthetic stand-ins of the benchmarks, each into FOLDER/<task>.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="gets one folder for each task")
    parser.add_argument("--tasks", default=",".join(STAND_INS), help="names with commas between (default: all)")
    parser.add_argument("--count", type=int, default=20, help="number of items of each task (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="another one gives other clips (default: 0)")
    options = parser.parse_args(arguments)
    tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    try:
        if options.count < 1:
            raise ValueError(f"--count must be at least 1, got {options.count}.")
        # All names are checked before anything is written.
        for name in tasks:
            find_stand_in(name)
        for name in tasks:
            written = write_stand_in(name, options.folder / name, options.count, options.seed)
            more = f" ({written} items, the fewest that it can have)" if written > options.count else ""
            print(f"{name}: {options.folder / name}{more}")
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
