"""``run_module.py MODULE ARGUMENTS``: what ``python -m`` does, for a launcher that takes files only.

MindSpore's launcher starts one process more than there are to train, which introduces them to one another. It does nothing else
here: it neither reads the experiment nor counts as a process of the run.
"""

import os
import runpy
import subprocess
import sys

SCHEDULER = "from mindspore.communication import init; init()"
"""Lets MindSpore's processes meet and ends when they have left: ``init`` does not return there."""


def introduce() -> int:
    """Run :data:`SCHEDULER` and return its exit code.

    ``init`` leaves by C's ``exit`` with the interpreter and MindSpore's threads alive, which may end with a signal after all is done;
    the launcher would take that for a failure of the training.
    """
    return max(subprocess.run([sys.executable, "-c", SCHEDULER]).returncode, 0)


if __name__ == "__main__":
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        sys.exit(introduce())
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
