#!/usr/bin/env python3
"""
Run commands and the test suite on real Linux kernels that have kTLS.

Many build machines run a kernel without `CONFIG_TLS`. User-mode Linux is a real kernel that runs as
an ordinary process, and Debian packages it with `tls.ko`: so each *suite* is one Debian release in a
folder (its *root*, see `lab_roots.py`), with that release's kernel, OpenSSL and Python, and beside
them the virtual environment `/venv` with the registry's newest wheels. The first use builds the
root, in `$KTLSGATE_LAB` or the XDG cache folder; `KTLSGATE_LAB=off` forbids all of it.

A guest sees its root read-only. It can write to tmpfs of its own and to its *stage*, one folder per
run into which the run's files are copied: so runs in one root cannot disturb each other. It has no
network but loopback, one processor, and root's rights.

The exit status is 0 when all that was asked for ran and succeeded, 1 when something failed, 77 when
nothing failed but something could not be run here; a line beginning with `lab: not run` says what
and why. `run` exits with its command's status, 124 after a timeout, 125 when the guest broke down.
"""

from __future__ import annotations

import argparse
import asyncio  # noqa: TID251 - only the standard library is there when this runs
import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab_roots import (
    CHECKOUT,
    SUITES,
    LabError,
    Root,
    enter_namespace,
    mount_once,
    ready_root,
    root_of,
    say,
    why_not_here,
)

NOT_RUN = 77  # automake's "skipped": no test runner uses it for anything else
TIMED_OUT = 124  # what coreutils' timeout says
BROKEN_GUEST = 125
GUESTS_AT_ONCE = 2  # each keeps one processor busy
TAIL = 40  # lines of a guest that was killed or broke down; a traceback's length

PYTHONS = {"system": "", "wheel": "/venv/bin:"}  # what each puts before the guest's PATH
STAGED = ("tests", "scripts", "pyproject.toml", "README.md")
LONGEST_LINE = 1 << 24  # bytes; asyncio's own limit of 64 KiB is less than a failed comparison prints

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
mount -t hostfs -o hostfs={stage} hostfs {stage} 2>/dev/null || mount -t hostfs -o {stage} hostfs {stage}
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

FACTS = """\
import platform, OpenSSL
from OpenSSL import SSL
library = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[1]
print("lab facts: Linux", platform.release(), "| OpenSSL", library, "| pyOpenSSL",
      OpenSSL.__version__, "| Python", platform.python_version())
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
    lines: Sequence[str]
    seconds: float


class GuestOutput:
    """
    Takes the console's lines one by one and gives back those of the job.

    What the kernel says before the job begins is kept back, to be shown only if the job never does.
    The line break that init adds before its last line, in case the job's output ends without
    one, is taken out again: hence one line is always held.
    """

    def __init__(self, token: str) -> None:
        self.boot: list[str] = []
        self.status: int | None = None
        self._token = token
        self._begun = False
        self._held = ""

    def receive_line(self, line: str) -> str:
        """Take one line with its end; return what of the job's output is now certain."""
        line = line.replace("\r", "")
        if not self._begun:
            self.boot.append(line)
            self._begun = line == f"{self._token} begins\n"
            return ""
        before, self._held = self._held, line
        if ended := re.fullmatch(rf"{self._token} ends (\d+)\n", line):
            self.status, self._held, self._begun = int(ended[1]), "", False
            return "" if before == "\n" else before
        return before

    def receive_eof(self) -> str:
        """Return what was held back: all there is, if the job never began."""
        if self.status is None and not self._begun:
            return "".join(self.boot)
        return self._held


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
    # setpriv: the guest dies with us even if we are killed outright. The guest's memory is a file in
    # TMPDIR, so that is a tmpfs.
    return [
        *("setpriv", "--pdeathsig", "KILL", "chroot", str(root.folder)),
        *("env", "-i", "PATH=/usr/bin:/bin", "TMPDIR=/tmp", "HOME=/tmp", "linux.uml", "mem=2G"),
        *("root=/dev/root", "rootfstype=hostfs", "ro", f"init={init}", "quiet", "loglevel=3"),
        *("con=null", "con0=null,fd:1", "ssl=null"),
    ]


async def boot(root: Root, stage: Path, job: Job, show: Callable[[str], None]) -> Result:
    """
    Run the job in a guest whose writable folder is the stage; call `show` with output as it comes.

    A guest that is still there at the deadline is killed with everything it started, and so it is
    when this is cancelled.
    """
    mount_once(root.folder / "proc", "--bind", "/proc")
    mount_once(root.folder / "tmp", "-t", "tmpfs", "-o", "mode=1777,exec", "tmpfs")
    inside = "/" + str(stage.relative_to(root.folder))
    token = f"lab-{secrets.token_hex(8)}"
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in job.exports.items())
    values = {"path": PYTHONS[job.python], "stage": inside, "token": token}
    init = stage / ".init.sh"
    init.write_text(INIT.format(command=job.command, exports=exports, **values), encoding="utf-8")
    init.chmod(0o755)
    started, lines, output = time.monotonic(), [], GuestOutput(token)
    guest = await asyncio.create_subprocess_exec(
        *guest_command(root, f"{inside}/.init.sh"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    assert guest.stdout is not None, "stdout=PIPE gives a stream"

    def emit(text: str) -> None:
        if text:
            lines.append(text)
            show(text)

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
    emit(output.receive_eof() if output.status is None else "")
    return Result(status=status, lines=lines, seconds=time.monotonic() - started)


# The commands.


def copy_into(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    else:
        shutil.copy(source, target)


def split_copy(argument: str, stage: Path) -> tuple[Path, Path]:
    """Return source and target of a `SRC[:DST]`; the target must lie in the stage."""
    source, _, target = argument.partition(":")
    path = Path(os.path.normpath(stage / (target or Path(source).resolve().name)))
    if not path.is_relative_to(stage) or path == stage:
        raise LabError(f"--copy {argument}: the target must be a path below the working folder")
    return Path(source), path


def write_through(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


async def run_command(arguments: argparse.Namespace) -> int:
    """Carry out `lab.py run`."""
    with ready_root(arguments.suite) as root, new_stage(root) as stage:
        for argument in arguments.copy:
            copy_into(*split_copy(argument, stage))
        command = shlex.join(arguments.command)
        job = Job(command=command, python=arguments.python, timeout=arguments.timeout)
        result = await boot(root, stage, job, write_through)
    say_how_it_ended(result.status, arguments.timeout)
    return result.status


def say_how_it_ended(status: int, timeout: float) -> None:
    if status == TIMED_OUT:
        say(f"the guest was killed after {timeout:g} seconds")
    elif status == BROKEN_GUEST:
        say("the guest ended without an exit status")


def stage_tests(wheel: Path, stage: Path) -> None:
    """Unpack the wheel and copy the tests; never the checkout's own package, which would hide it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(stage / "site")
    for name in STAGED:
        if (CHECKOUT / name).exists():
            copy_into(CHECKOUT / name, stage / "work" / name)


def summary(label: str, result: Result) -> str:
    """Return one line: what ran on what, pytest's own counts, and the time it took."""
    facts = next((li for li in result.lines if li.startswith("lab facts: ")), "lab facts: unknown")
    counts = r"(?:=+ )?((?:\d+ [a-z]+(?:, )?)+|no tests ran) in [\d.]+s.*\n?"
    found = [m[1] for m in (re.fullmatch(counts, line) for line in result.lines) if m]
    ends = {0: "passed", TIMED_OUT: "TIMED OUT", BROKEN_GUEST: "GUEST BROKE DOWN"}
    end = ends.get(result.status, f"FAILED ({result.status})")
    words = (facts.strip().removeprefix("lab facts: "), found[-1] if found else "no counts")
    return f"{label}: {end} | {' | '.join(words)} | {result.seconds:.0f} s"


async def test_combination(
    root: Root, python: str, arguments: argparse.Namespace, show: Callable[[str], None]
) -> Result:
    with new_stage(root) as stage:
        stage_tests(arguments.wheel, stage)
        inside = "/" + str(stage.relative_to(root.folder))
        pytest = ["python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments.pytest]
        facts = shlex.join(["python3", "-c", FACTS])
        job = Job(
            command=f"cd work; {facts}; {shlex.join(pytest)}",
            python=python,
            timeout=arguments.timeout,
            exports={"PYTHONPATH": f"{inside}/site"},
        )
        return await boot(root, stage, job, show)


async def test_command(arguments: argparse.Namespace) -> int:
    """Carry out `lab.py test`."""
    summaries, statuses, turns = [], [], asyncio.Semaphore(GUESTS_AT_ONCE)
    single = len(arguments.suites) * len(arguments.python) == 1

    async def one(root: Root, python: str) -> None:
        made_from = root.status["made_from"]
        label = f"{root.suite} {python}"
        if made_from != root.suite:
            label += f" ({made_from} in its place)"
        async with turns:
            show = write_through if single else lambda _: None
            result = await test_combination(root, python, arguments, show)
        if not single:
            text = "".join(result.lines if result.status != TIMED_OUT else result.lines[-TAIL:])
            write_through(f"===== {label}\n{text}")
        say_how_it_ended(result.status, arguments.timeout)
        summaries.append(summary(label, result))
        statuses.append(result.status)

    with contextlib.ExitStack() as roots:
        ready, missing = ready_roots(arguments.suites, roots)
        async with asyncio.TaskGroup() as group:
            for root in ready:
                for python in arguments.python:
                    group.create_task(one(root, python))
    write_through("\n".join(["", *sorted(summaries), *missing, ""]))
    return 1 if any(statuses) else NOT_RUN if missing else 0


def ready_roots(
    suites: Sequence[str], held: contextlib.ExitStack
) -> tuple[list[Root], list[str]]:
    """Return the roots that could be made ready, and one line for each that could not."""
    ready, missing = [], []
    for suite in suites:
        try:
            ready.append(held.enter_context(ready_root(suite)))
        except LabError as exc:
            say(str(exc))
            missing.append(f"lab: not run: {suite}: {str(exc).splitlines()[0]}")
    return ready, missing


async def build_command(arguments: argparse.Namespace) -> int:
    """Carry out `lab.py build`."""
    with contextlib.ExitStack() as roots:
        ready, missing = ready_roots(arguments.suites or list(SUITES), roots)
        for root in ready:
            write_through(f"{root.suite}: ready, Linux {root.kernel}\n")
    write_through("".join(f"{line}\n" for line in missing))
    return NOT_RUN if missing else 0


def list_roots() -> int:
    """Carry out `lab.py list`."""
    for root in map(root_of, SUITES):
        state = "ready" if root.is_ready() else "venv outdated" if root.packages_ready() else "absent"
        made_from = root.status.get("made_from", root.suite)
        print(f"{root.suite}: {state}, made from {made_from}, Linux {root.kernel}, {root.folder}")
    return 0


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    def one_of(names: Mapping[str, object]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if not set(chosen) <= set(names):
                raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(names)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="name", required=True)
    commands.add_parser("list", help="say which roots are ready")
    build = commands.add_parser("build", help="make roots ready: all, or those named")
    build.add_argument("suites", nargs="*", metavar="SUITE", choices=[*SUITES, []])
    run = commands.add_parser("run", help="run one command in a guest")
    run.add_argument("suite", choices=SUITES)
    run.add_argument("--python", choices=PYTHONS, default="system")
    run.add_argument("--timeout", type=float, default=300, help="seconds, boot included (300)")
    run.add_argument("--copy", action="append", default=[], metavar="SRC[:DST]", help="repeatable")
    test = commands.add_parser("test", help="run pytest against a built wheel")
    test.add_argument("--suites", type=one_of(SUITES), default=list(SUITES))
    test.add_argument("--python", type=one_of(PYTHONS), default=list(PYTHONS))
    test.add_argument("--timeout", type=float, default=900, help="seconds per guest (900)")
    test.add_argument("wheel", type=Path)
    # What follows `--` belongs to the command in the guest, whatever it looks like.
    end = [*argv, "--"].index("--")
    arguments = parser.parse_args(argv[:end])
    arguments.command = arguments.pytest = list(argv[end + 1 :])
    if arguments.name == "run" and not arguments.command:
        run.error("expected -- COMMAND")
    return arguments


async def until_terminated(arguments: argparse.Namespace) -> int:
    # Cancelling, unlike dying, lets the guests be killed and the stages deleted.
    task = asyncio.current_task()
    assert task is not None, "a coroutine of asyncio.run runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    commands = {"build": build_command, "run": run_command, "test": test_command}
    return await commands[arguments.name](arguments)


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    if arguments.name == "list":
        return list_roots()
    if reason := why_not_here():
        what = " ".join(argv)
        say(f"not run: {what}: {reason}")
        return NOT_RUN
    enter_namespace()
    try:
        return asyncio.run(until_terminated(arguments))
    except LabError as exc:
        say(f"not run: {exc}")
        return NOT_RUN
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
