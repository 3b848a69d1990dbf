"""Boot one user-mode Linux over a root, run one job in it, and read what the job wrote."""

from __future__ import annotations

import asyncio  # noqa: TID251 - only the standard library is there when this runs
import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lab_roots import Root, mount_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

TIMED_OUT = 124  # what coreutils' timeout says
BROKEN_GUEST = 125
PYTHONS = {"system": "", "wheel": "/venv/bin:"}  # what each puts before the guest's PATH
LONGEST_LINE = 1 << 24  # bytes; a failed comparison prints more than asyncio's own 64 KiB

INIT = """\
#!/bin/sh
export PATH={path}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/tmp TMPDIR=/tmp LANG=C.UTF-8 TERM=dumb COLUMNS=110
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 {exports}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /dev/pts
for folder in /run /dev/shm /tmp; do mount -t tmpfs -o mode=1777 tmpfs $folder; done
chmod 755 /run
mount -t devpts -o ptmxmode=666 devpts /dev/pts
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
# The option is a bare path up to Linux 6.10 or so, and has a name since.
mount -t hostfs -o hostfs={stage} hostfs {stage} 2>/dev/null ||
    mount -t hostfs -o {stage} hostfs {stage}
ip link set lo up
busybox hostname lab
ulimit -n 65536
for module in tls gcm ccm chacha20poly1305 ipv6; do modprobe -q $module; done
cd {stage}
echo; echo '{token} begins'
( {command} ) </dev/null
status=$?
echo; echo "{token} ends $status"
busybox halt -f
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a guest runs: `command` is shell text, its working folder is the stage."""

    command: str
    python: str
    timeout: float  # seconds, boot included
    exports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a guest ended; `seconds` includes its boot."""

    status: int
    output: str
    seconds: float


class GuestOutput:
    """Takes the console's lines one by one and gives back what the job wrote.

    What the kernel says before the job begins is kept back, to be shown only if the job never does.
    Init adds a line break before its last line, in case the job's output ends without one; to take
    it out again, each line break is given back only when something follows it.
    """

    def __init__(self, token: str) -> None:
        self.status: int | None = None
        self._token = token
        self._before: list[str] | None = []
        self._line_break = ""

    def receive_line(self, line: str) -> str:
        """Take one line with its end; return what of the job's output is now certain."""
        line = line.replace("\r", "")
        if self._before is not None:
            self._before = None if line == f"{self._token} begins\n" else [*self._before, line]
            return ""
        if self.status is not None:
            return ""
        if ended := re.fullmatch(rf"{self._token} ends (\d+)\n", line):
            self.status, self._line_break = int(ended[1]), ""
            return ""
        text = line.removesuffix("\n")
        certain, self._line_break = self._line_break + text, line[len(text) :]
        return certain

    def receive_eof(self) -> str:
        """Return what was held back: all there is, if the job never began."""
        return "".join(self._before or []) + self._line_break


@contextlib.contextmanager
def new_stage(root: Root) -> Iterator[Path]:
    """Give a fresh folder inside the root, and delete it afterwards."""
    stage = root.folder / "stage" / f"{os.getpid()}-{secrets.token_hex(4)}"
    stage.mkdir(parents=True)
    stage.chmod(0o755)
    try:
        yield stage
    finally:
        shutil.rmtree(stage)


def guest_command(root: Root, init: str) -> list[str]:
    """Return the command that boots the root's kernel over the root, with `init` as its first."""
    return [
        # The guest dies with us even if we are killed outright, and its helpers die with it.
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"),
        # Its memory is a file in TMPDIR, so that is a tmpfs.
        *(
            "chroot",
            str(root.folder),
            "env",
            "-i",
            "PATH=/usr/bin:/bin",
            "TMPDIR=/tmp",
            "HOME=/tmp",
        ),
        *("linux.uml", "mem=2G", "root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}"),
        *("quiet", "loglevel=3", "con=null", "con0=null,fd:1", "ssl=null"),
    ]


def write_init(stage: Path, job: Job, *, inside: str, token: str) -> None:
    """Write the guest's first program into its stage, which the guest knows as `inside`."""
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.exports.items())
    values = {"path": PYTHONS[job.python], "stage": inside, "token": token, "exports": exports}
    init = stage / ".init.sh"
    init.write_text(INIT.format(command=job.command, **values), encoding="utf-8")
    init.chmod(0o755)


async def boot(root: Root, stage: Path, job: Job, show: Callable[[str], None]) -> Result:
    """Run the job in a guest that can write to the stage; call `show` with output as it comes.

    A guest that is still there at the deadline is killed with everything it started, and so it is
    when this is cancelled.
    """
    mount_once(root.folder / "proc", "--bind", "/proc")
    mount_once(root.folder / "tmp", "-t", "tmpfs", "-o", "mode=1777,exec", "tmpfs")
    inside = "/" + str(stage.relative_to(root.folder))
    output = GuestOutput(token := f"lab-{secrets.token_hex(8)}")
    write_init(stage, job, inside=inside, token=token)
    pieces: list[str] = []

    def emit(text: str) -> None:
        if text:
            pieces.append(text)
            show(text)

    started = time.monotonic()
    guest = await asyncio.create_subprocess_exec(
        *guest_command(root, f"{inside}/.init.sh"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    if guest.stdout is None:
        raise AssertionError("stdout=PIPE gives a stream")
    status = BROKEN_GUEST
    try:
        async with asyncio.timeout(job.timeout):
            async for line in guest.stdout:
                emit(output.receive_line(line.decode(errors="replace")))
        status = BROKEN_GUEST if output.status is None else output.status
    except TimeoutError:
        status = TIMED_OUT
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        await guest.wait()
    emit(output.receive_eof())
    seconds = time.monotonic() - started
    return Result(status=status, output="".join(pieces), seconds=seconds)
