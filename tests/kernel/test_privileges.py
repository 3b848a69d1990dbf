"""What a process may do and show; each in a process of its own, for none can be undone."""

import json
import resource
import subprocess
import sys

SCRIPT = """
import ctypes, json, resource
from ktlsgate.kernel.privileges import forbid_dumps, raise_open_files
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
raised = raise_open_files()
again = raise_open_files()
forbid_dumps()
print(json.dumps({
    "raised": [raised, again],
    "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
}))
"""


def run():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def test_open_files_are_raised_to_the_hard_limit_and_dumps_forbidden():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert run() == {
        "raised": [hard, hard],
        "limit": [hard, hard],
        "core": [0, 0],
        "dumpable": 0,
    }
