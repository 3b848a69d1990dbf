"""Boot one user-mode Linux over a root, run one job in it, and read what the job wrote.

The kernel is that root's own or another root's. A kernel is a program that needs the libc it was
built with, so it runs inside its own root; another root, to be the guest's, is mounted there, on a
tmpfs of this program's mount namespace: no root is written to, and nobody else sees it.
"""

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
# The folder is an option with a name or a bare path: it depends on the kernel and on mount.
hostfs() {{
    mount -t hostfs -o $1,hostfs=$2 hostfs $3 2>/dev/null || mount -t hostfs -o $1,$2 hostfs $3
}}
hostfs rw {below}{stage} {stage}
{modules}
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


# The kernel's modules, where modprobe looks; a root has links there to those of its own kernel.
FOREIGN_MODULES = "hostfs ro /usr/lib/uml/modules /usr/lib/modules"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """What a guest is made of: the userland of one root, the kernel of the same or another."""

    userland: Root
    kernel: Root

    @property
    def is_mixed(self) -> bool:
        """Return whether the kernel is another root's."""
        return self.userland.suite != self.kernel.suite

    @property
    def below(self) -> str:
        """Where in the kernel's root the userland lies; nothing if that is it."""
        return f"/tmp/{self.userland.suite}" if self.is_mixed else ""  # noqa: S108 - a root's own

    def mounts(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Return what the kernel's program needs mounted in its root, outer mount points first."""
        root = self.kernel.folder
        # The guest's memory is a file in /tmp.
        tmpfs = ("-t", "tmpfs", "-o", "mode=1777,exec", "tmpfs")
        needed = [(root / "proc", ("--bind", "/proc")), (root / "tmp", tmpfs)]
        # Not --rbind: what is mounted in the userland's root is for its own kernel.
        bind = ("--bind", str(self.userland.folder))
        return [*needed, (root / self.below[1:], bind)] if self.is_mixed else needed


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


def guest_command(system: System, init: str) -> list[str]:
    """Return the command that boots the kernel over the userland, with `init` as its first."""
    # A bare path: no kernel takes the option's name here.
    flags = [f"rootflags={system.below}"] if system.is_mixed else []
    return [
        # The guest dies with us even if we are killed outright, and its helpers die with it.
        *("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"),
        *("chroot", str(system.kernel.folder)),
        *("env", "-i", "PATH=/usr/bin:/bin", "TMPDIR=/tmp", "HOME=/tmp"),
        *("linux.uml", "mem=2G", "root=/dev/root", "rootfstype=hostfs", *flags, "ro"),
        f"init={init}",
        *("quiet", "loglevel=3", "con=null", "con0=null,fd:1", "ssl=null"),
    ]


def write_init(system: System, stage: Path, job: Job, token: str) -> str:
    """Write the guest's first program into its stage; return where the guest sees it."""
    inside = "/" + str(stage.relative_to(system.userland.folder))
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.exports.items())
    values = {
        "path": PYTHONS[job.python],
        "exports": exports,
        "below": system.below,
        "stage": inside,
        "modules": FOREIGN_MODULES if system.is_mixed else "",
        "token": token,
        "command": job.command,
    }
    init = stage / ".init.sh"
    init.write_text(INIT.format(**values), encoding="utf-8")
    init.chmod(0o755)
    return f"{inside}/{init.name}"


async def boot(system: System, stage: Path, job: Job, show: Callable[[str], None]) -> Result:
    """Run the job in a guest that can write to the stage; call `show` with output as it comes.

    The stage is one of the userland's root.
    A guest that is still there at the deadline is killed with everything it started, and so it is
    when this is cancelled.
    """
    for folder, options in system.mounts():
        folder.mkdir(exist_ok=True)
        mount_once(folder, *options)
    output = GuestOutput(token := f"lab-{secrets.token_hex(8)}")
    init = write_init(system, stage, job, token)
    pieces: list[str] = []

    def emit(text: str) -> None:
        if text:
            pieces.append(text)
            show(text)

    started = time.monotonic()
    guest = await asyncio.create_subprocess_exec(
        *guest_command(system, init),
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
