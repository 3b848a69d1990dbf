"""The probe as a process of its own, and its advice followed to the letter.

`follow` runs the commands that an advice names, nothing else: what is in backquotes and
begins like a command. They get a root's rights and a writable copy of /etc, in a mount
namespace of their own where that is needed; loaded modules stay loaded for everyone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ktlsgate

ROOT = str(Path(ktlsgate.__file__).parent.parent)
NOBODY = 65534
_COMMANDS = ("modprobe ", "echo ", "python3 -m venv ")  # what is looked for begins otherwise


def run_probe(
    *arguments: str,
    wrapper: tuple[str, ...] = (),
    python: str = sys.executable,
    user: int | None = None,
) -> dict:
    """The probe's JSON, from a process of its own."""
    done = subprocess.run(
        [*wrapper, python, "-B", "-m", "ktlsgate", "probe", "--json", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ROOT},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode
    return report


def run_module(report_module: str, *arguments: str) -> dict:
    """The probe's JSON by way of another program: a module file that becomes the probe."""
    done = subprocess.run(
        [sys.executable, "-B", report_module, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    assert done.stderr == ""
    return json.loads(done.stdout)


def commands_in(advice: str) -> list[str]:
    """What of an advice can be run: ``modprobe tls``, but not ``install tls``."""
    return [word for word in re.findall(r"`([^`]+)`", advice) if word.startswith(_COMMANDS)]


def command(*words: str) -> None:
    """Run it, and expect success."""
    done = subprocess.run(words, check=False, capture_output=True, timeout=60, text=True)
    assert done.returncode == 0, (words, done.stderr)


def follow(advice: str, etc: Path | None = None) -> list[str]:
    """Do what an advice says, and say what that was.

    Args:
        advice: the line; it must name a command.
        etc: a folder that stands for /etc while it is done, for advice that writes there.
    """
    commands = commands_in(advice)
    assert commands, f"nothing to run in {advice!r}"
    for each in commands:
        if etc is None:
            command("sh", "-c", each)
        else:
            command("unshare", "--mount", "sh", "-c", f"mount --bind {etc} /etc; {each}")
    return commands


def is_guest() -> bool:
    """Whether this kernel is the lab's: user-mode Linux, nobody else's."""
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def modules() -> set[str]:
    """What is loaded now."""
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


@contextlib.contextmanager
def modprobe_rules(*lines: str) -> Iterator[Path]:
    """Give modprobe a configuration of these lines alone, as an administrator would."""
    command("mount", "-t", "tmpfs", "tmpfs", "/etc/modprobe.d")
    try:
        file = Path("/etc/modprobe.d/careful.conf")
        file.write_text("".join(f"{line}\n" for line in lines))
        yield file
    finally:
        command("umount", "/etc/modprobe.d")
