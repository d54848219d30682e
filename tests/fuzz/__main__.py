"""Fuzzes from the command line: ``python -m tests.fuzz COUNT [FORMAT ...]``."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.fuzz_formats import FORMATS, write_mutant
from tests.fuzz.fuzz_process import FuzzProcess, measure_device, prepare, slug


def main(arguments: list[str]) -> int:
    """Fuzz from the command line: the number of mutations per format, then names of formats (default: all).

    Prints each mutation that broke the rule, and keeps its files in the folder ``fuzz-breaches``.
    """
    count, names = int(arguments[0]), arguments[1:] or list(FORMATS)
    breaches = 0
    with tempfile.TemporaryDirectory(prefix="trisect-fuzz-") as scratch, FuzzProcess(Path(scratch)) as process:
        os.environ["XDG_CACHE_HOME"] = scratch
        measure_device()
        for name in names:
            prepare(name, Path(scratch))
            for number in range(count):
                breach = process.check(name, number)
                if breach is not None:
                    breaches += 1
                    print(breach, flush=True)
                    copy = Path("fuzz-breaches") / f"{slug(name)}_{number}"
                    shutil.rmtree(copy, ignore_errors=True)
                    write_mutant(name, number, Path(scratch) / slug(name), copy)
            print(f"{name}: {count} mutations read", flush=True)
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
