"""``python -P -m trisect``: the command line, without the installed script.

Without ``-P``, Python itself searches the current folder for modules before this file runs.
"""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(os.curdir):
    del sys.path[0]

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
