#!/usr/bin/env python3
"""Run commands and the test suite on real Linux kernels that have kTLS.

Many build machines run a kernel without `CONFIG_TLS`. User-mode Linux is a real kernel that runs as
an ordinary process, and Debian packages it with `tls.ko`: so each *suite* is one Debian release in
a folder (its *root*, see `lab_roots.py`), with that release's kernel, OpenSSL and Python, and
beside them the virtual environment `/venv` with the registry's newest wheels. The first use builds
the root, in `$KTLSGATE_LAB` or the XDG cache folder; `KTLSGATE_LAB=off` forbids all of it.

A suite's userland (all but the kernel) runs on its own kernel, or on other suites' kernels:
`test --kernels SUITE,...` runs each chosen suite on each of those, `run --kernel SUITE` on one.

A guest sees its root read-only. It can write to tmpfs of its own and to its *stage*, one folder per
run into which the run's files are copied: so runs in one root cannot disturb each other. It has no
network but loopback, one processor, and root's rights. `test` reads the wheel and the tests once,
at its start: all its guests run the same, whatever is rebuilt meanwhile.

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
import shlex
import shutil
import signal
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab_guest import BROKEN_GUEST, PYTHONS, TIMED_OUT, Job, Result, System, boot, new_stage
from lab_machine import LabError, enter_namespace, say, why_not_here
from lab_roots import CHECKOUT, SUITES, Root, ready_root, root_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

NOT_RUN = 77  # automake's "skipped": no test runner uses it for anything else
GUESTS_AT_ONCE = 2  # each keeps one processor busy
TAIL = 40  # lines of a guest that was killed or broke down; a traceback's length

# What the tests themselves read of the environment, such as a seed or a count.
TEST_VARIABLES = ("KTLSGATE_FULL", "KTLSGATE_MATRIX", "KTLSGATE_RANDOM", "KTLSGATE_SEED")
STAGED = ("tests", "scripts", "docs", "examples", "pyproject.toml", "README.md", "Makefile")

FACTS = """\
import platform, OpenSSL
from OpenSSL import SSL
library = SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode().split()[1]
print("lab facts: Linux", platform.release(), "| OpenSSL", library, "| pyOpenSSL",
      OpenSSL.__version__, "| Python", platform.python_version())
"""


def copy_into(source: Path, target: Path) -> None:
    """Copy a file or a folder, without what earlier runs left in it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        left = shutil.ignore_patterns("__pycache__", ".git", ".*_cache", ".hypothesis")
        shutil.copytree(source, target, ignore=left)
    else:
        shutil.copy(source, target)


def existing_path(text: str) -> Path:
    """Return an argument's path; without it nothing need be started."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return Path(text)


def copy_pair(text: str) -> tuple[Path, Path]:
    """Return source and target of a `SRC[:DST]`; the target must lie in the working folder."""
    source, _, target = text.partition(":")
    path = Path(os.path.normpath(target or Path(source).resolve().name))
    if path.is_absolute() or path.parts[:1] in {(), ("..",)}:
        raise argparse.ArgumentTypeError(f"{target} is not a path below the working folder")
    return existing_path(source), path


def write_through(text: str) -> None:
    """Write output at once: a guest may be watched."""
    sys.stdout.write(text)
    sys.stdout.flush()


def say_how_it_ended(status: int, timeout: float) -> None:
    """Say what the guest itself could not."""
    if status == TIMED_OUT:
        say(f"the guest was killed after {timeout:g} seconds")
    elif status == BROKEN_GUEST:
        say("the guest ended without an exit status")


async def run_command(arguments: argparse.Namespace) -> int:
    """Carry out `lab.py run`."""
    names = [arguments.suite, arguments.kernel or arguments.suite]
    with contextlib.ExitStack() as held:
        ready = {name: held.enter_context(ready_root(name)) for name in in_order(names)}
        system = System(userland=ready[names[0]], kernel=ready[names[1]])
        stage = held.enter_context(new_stage(system.userland))
        for source, target in arguments.copy:
            copy_into(source, stage / target)
        command = shlex.join(arguments.command)
        job = Job(command=command, python=arguments.python, timeout=arguments.timeout)
        result = await boot(system, stage, job, write_through)
    say_how_it_ended(result.status, arguments.timeout)
    return result.status


def gather_tests(wheel: Path, folder: Path) -> None:
    """Unpack the wheel and copy the tests, but not the checkout's package: it would hide it."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    for name in STAGED:
        if (CHECKOUT / name).exists():
            copy_into(CHECKOUT / name, folder / "work" / name)


def summary(label: str, result: Result) -> str:
    """Return one line: what ran on what, pytest's own counts, and the time it took."""
    facts = re.search(r"^lab facts: (.*)", result.output, re.MULTILINE)
    counts = r"^(?:=+ )?((?:\d+ [a-z]+(?:, )?)+|no tests ran) in [\d.]+s"
    found = re.findall(counts, result.output, re.MULTILINE)
    ends = {0: "passed", TIMED_OUT: "TIMED OUT", BROKEN_GUEST: "GUEST BROKE DOWN"}
    end = ends.get(result.status, f"FAILED ({result.status})")
    words = (facts[1] if facts else "unknown", found[-1] if found else "no counts")
    return f"{label}: {end} | {' | '.join(words)} | {result.seconds:.0f} s"


def suite_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return those of the variables that the tests themselves read."""
    return {name: environ[name] for name in TEST_VARIABLES if name in environ}


@dataclass(frozen=True, slots=True, kw_only=True)
class Testing:
    """What the guests of one `lab.py test` have in common."""

    arguments: argparse.Namespace
    gathered: Path  # by gather_tests
    turns: asyncio.Semaphore


async def run_tests(
    system: System, python: str, testing: Testing, show: Callable[[str], None]
) -> Result:
    """Run pytest on the wheel in one guest."""
    arguments = testing.arguments
    with new_stage(system.userland) as stage:
        for name in ("site", "work"):
            copy_into(testing.gathered / name, stage / name)
        inside = "/" + str(stage.relative_to(system.userland.folder))
        pytest = ["python3", "-m", "pytest", "-p", "no:cacheprovider", *arguments.pytest]
        facts = shlex.join(["python3", "-c", FACTS])
        job = Job(
            command=f"cd work; {facts}; {shlex.join(pytest)}",
            python=python,
            timeout=arguments.timeout,
            exports={"PYTHONPATH": f"{inside}/site", **suite_settings(os.environ)},
        )
        return await boot(system, stage, job, show)


def label_of(system: System, python: str, *, names_kernel: bool) -> str:
    """Return what a guest is called in the output."""

    def stand_in(root: Root) -> str:
        made_from = root.status["made_from"]
        return "" if made_from == root.suite else f" ({made_from} in its place)"

    userland, kernel = system.userland, system.kernel
    on = f" on {kernel.suite}'s kernel{stand_in(kernel)}" if names_kernel else ""
    return f"{userland.suite} {python}{stand_in(userland)}{on}"


async def test_combination(system: System, python: str, testing: Testing) -> tuple[int, str]:
    """Run pytest in one guest and show its output in one piece; return status and summary."""
    arguments = testing.arguments
    label = label_of(system, python, names_kernel=bool(arguments.kernels))
    single = len(arguments.suites) * len(arguments.kernels or [1]) * len(arguments.python) == 1
    async with testing.turns:
        show = write_through if single else lambda _: None
        result = await run_tests(system, python, testing, show)
    if not single:
        first = -TAIL if result.status in {TIMED_OUT, BROKEN_GUEST} else 0
        text = "\n".join(result.output.splitlines()[first:])
        write_through(f"===== {label}\n{text}\n")
    say_how_it_ended(result.status, arguments.timeout)
    return result.status, summary(label, result)


def systems_of(
    suites: Sequence[str], kernels: Sequence[str] | None, roots: Iterable[Root]
) -> list[System]:
    """Return each suite on each kernel, or else on its own, as far as their roots are ready."""
    ready = {root.suite: root for root in roots}
    return [
        System(userland=ready[suite], kernel=ready[kernel])
        for suite in suites
        for kernel in kernels or [suite]
        if {suite, kernel} <= ready.keys()
    ]


def in_order(suites: Iterable[str]) -> list[str]:
    """Return each suite once, always in the same order: so locks are never awaited in a ring."""
    return sorted(set(suites), key=list(SUITES).index)


async def test_command(arguments: argparse.Namespace) -> int:
    """Carry out `lab.py test`."""
    with contextlib.ExitStack() as held:
        gathered = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="ktlsgate-lab-")))
        gather_tests(arguments.wheel, gathered)
        needed = in_order([*arguments.suites, *(arguments.kernels or [])])
        roots, missing = ready_roots(needed, held)
        systems = systems_of(arguments.suites, arguments.kernels, roots)
        turns = asyncio.Semaphore(GUESTS_AT_ONCE)
        testing = Testing(arguments=arguments, gathered=gathered, turns=turns)
        pairs = [(system, python) for system in systems for python in arguments.python]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(test_combination(*p, testing)) for p in pairs]
    results = [task.result() for task in tasks]
    write_through("\n".join(["", *(line for _, line in results), *missing, ""]))
    if any(status for status, _ in results):
        return 1
    return NOT_RUN if missing else 0


def ready_roots(suites: Sequence[str], held: contextlib.ExitStack) -> tuple[list[Root], list[str]]:
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
        states = {(True, True): "ready", (True, False): "ready but for its venv"}
        state = states.get((root.packages_ready(), root.venv_ready()), "not ready")
        made_from = root.status.get("made_from", root.suite)
        print(f"{root.suite}: {state}, made from {made_from}, Linux {root.kernel}, {root.folder}")
    return 0


def some_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Return the reader of an argument that is a comma-separated choice."""

    def parse(text: str) -> list[str]:
        if not set(chosen := text.split(",")) <= set(names):
            raise argparse.ArgumentTypeError(f"{text!r}: expected some of {','.join(names)}")
        return chosen

    return parse


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows `--` belongs to the command in the guest."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="name", required=True)
    commands.add_parser("list", help="say which roots are ready")
    build = commands.add_parser("build", help="make roots ready: all, or those named")
    build.add_argument("suites", nargs="*", metavar="SUITE", choices=[*SUITES, []], default=[])
    run = commands.add_parser("run", help="run one command in a guest")
    run.add_argument("suite", choices=SUITES)
    run.add_argument("--kernel", choices=SUITES, help="another suite's kernel")
    run.add_argument("--python", choices=PYTHONS, default="system")
    run.add_argument("--timeout", type=float, default=300, help="seconds, boot included (300)")
    help_copy = "into the command's working folder; repeatable"
    run.add_argument(
        "--copy", action="append", type=copy_pair, default=[], metavar="SRC[:DST]", help=help_copy
    )
    test = commands.add_parser("test", help="run pytest against a built wheel")
    test.add_argument("--suites", type=some_of(SUITES), default=list(SUITES))
    help_kernels = "run every suite on each of these suites' kernels, not on its own"
    test.add_argument("--kernels", type=some_of(SUITES), metavar="SUITES", help=help_kernels)
    test.add_argument("--python", type=some_of(PYTHONS), default=list(PYTHONS))
    test.add_argument("--timeout", type=float, default=900, help="seconds per guest (900)")
    test.add_argument("wheel", type=existing_path)
    end = [*argv, "--"].index("--")
    arguments = parser.parse_args(argv[:end])
    arguments.command = arguments.pytest = list(argv[end + 1 :])
    if arguments.name == "run" and not arguments.command:
        run.error("expected -- COMMAND")
    return arguments


async def carry_out(arguments: argparse.Namespace) -> int:
    """Run the chosen command; SIGTERM cancels it, so that guests and stages are cleared away."""
    commands = {"build": build_command, "run": run_command, "test": test_command}
    task = asyncio.ensure_future(commands[arguments.name](arguments))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


def main(argv: Sequence[str]) -> int:
    """Return the exit status that the module's docstring lists."""
    arguments = parse_arguments(argv)
    if arguments.name == "list":
        return list_roots()
    if reason := why_not_here():
        say(f"not run: {shlex.join(argv)}: {reason}")
        return NOT_RUN
    enter_namespace()
    try:
        return asyncio.run(carry_out(arguments))
    except LabError as exc:
        say(f"not run: {exc}")
        return NOT_RUN
    except BrokenPipeError:  # who read our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted")
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
