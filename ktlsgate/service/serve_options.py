"""The options of the verb ``serve``; `ktlsgate.service.serve` is what they start."""

from __future__ import annotations

import argparse

__all__ = ["add_serve"]

_DESCRIPTION = """\
Run an ASGI or WSGI application as the backend of a gate on this machine.

  ktlsgate serve project:app --socket /run/app.sock --group ktlsgate
"""


def add_serve(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb and its options."""
    parser = verbs.add_parser(
        "serve",
        help="run an ASGI or WSGI application behind a gate",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("application", metavar="MODULE:APP", help="where the application is; APP is app by default")
    add("--socket", required=True, metavar="PATH", help="where to take handoffs, or @NAME")
    add("--owner", help="owner of the socket file")
    add("--group", help="group of the socket file: the gate's, so that it may connect")
    add("--mode", type=_octal, default=0o660, help="permissions of the socket file (default 660)")
    add(
        "--server",
        choices=("hypercorn", "uvicorn"),
        default="hypercorn",
        help="hypercorn (on Trio, the default) or uvicorn (on asyncio, ASGI only)",
    )
    add(
        "--interface",
        choices=("auto", "asgi", "wsgi"),
        default="auto",
        help="what the application is; auto (the default): asgi if it is a coroutine function",
    )
    add(
        "--graceful-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long running requests have at the end (default 10)",
    )


def _octal(text: str) -> int:
    value = int(text, 8)
    if not 0 <= value <= 0o777:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value
