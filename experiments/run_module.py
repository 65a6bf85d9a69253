"""``run_module.py MODULE ARGUMENTS``: what ``python -m`` does, for a launcher that takes files only."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
