"""What a process may show of itself, tried in processes of their own: it cannot be undone."""

from __future__ import annotations

import resource
import subprocess
import sys


def run(code):
    """Run code in a new interpreter; what it printed."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_dumps_are_forbidden():
    printed = run(
        "import ctypes, resource\n"
        "from ktlsgate.kernel.privileges import forbid_dumps\n"
        "forbid_dumps()\n"
        "print(*resource.getrlimit(resource.RLIMIT_CORE))\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE\n"
    )
    assert printed == ["0", "0", "0"]


def test_open_files_are_raised_to_the_hard_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    printed = run(
        "import resource\n"
        "from ktlsgate.kernel.privileges import raise_open_files\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(raise_open_files())\n"
    )
    assert printed == [str(hard)] * 4
