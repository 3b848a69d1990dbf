"""Runs coroutine tests by Trio; prints what they ran on, and what became of the matrix."""

import importlib
import inspect
import os
import platform

import pytest
import trio
import trio.testing
from helpers.matrix_report import write_report
from helpers.randomness import random_count, random_seed

_PATIENCE = 20  # seconds for one coroutine test
_JUMPED = 1e6  # the same where time costs nothing: a test that hangs gets there at once


@pytest.fixture
def autojump_clock():
    """A clock that jumps over every wait, so that deadlines cost no time."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run ``async def test_...`` inside trio.run."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    clock = pyfuncitem.funcargs.get("autojump_clock")

    async def run():
        with trio.fail_after(_JUMPED if clock else _PATIENCE):
            await pyfuncitem.obj(**arguments)

    trio.run(run, clock=clock, strict_exception_groups=True)
    return True


def _version(module):
    try:
        return importlib.import_module(module).__version__
    except ImportError:
        return "none"


def _openssl():
    try:
        from OpenSSL import SSL
    except ImportError:
        return "none"
    return SSL.SSLeay_version(SSL.SSLEAY_VERSION).decode()


def _ktls():
    try:
        from ktlsgate.kernel.probe import probe_offload
    except ImportError:
        return "not probed"
    return probe_offload().summary()


def pytest_report_header():
    """Say which kernel, which libraries and which kTLS these results are about."""
    versions = [f"{name} {_version(name)}" for name in ("trio", "OpenSSL", "cryptography")]
    return [
        ", ".join([f"kernel: {platform.release()}, python {platform.python_version()}", *versions]),
        f"linked: {_openssl()}; kTLS: {_ktls()}",
        f"random connections: {random_count()}, seed {random_seed()}",
    ]


def pytest_terminal_summary(terminalreporter):
    """End with what the cells of the matrix were, if they ran."""
    is_complete = os.environ.get("KTLSGATE_MATRIX") == "all"
    write_report(terminalreporter.write_line, terminalreporter.stats, is_complete=is_complete)
