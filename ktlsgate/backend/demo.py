"""A backend to try ktlsgate with: ``python -m ktlsgate.backend.demo --socket PATH``.

HTTP/1.1 with keep-alive, large files by sendfile, and WebSocket, on connections
that a gate hands over; `ktlsgate.backend.demo_app` lists the paths.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from ..errors import ConfigError
from .serving import HandoffListener, serve_trio
from .unix_listener import bind_unix_listener

if TYPE_CHECKING:
    from .demo_app import DemoApp

__all__ = ["main"]

_DRAIN = 5.0  # seconds for running answers after SIGTERM or SIGINT


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ktlsgate.backend.demo",
        description="Answer requests on connections that a gate hands over.",
    )
    parser.add_argument("--socket", required=True, help="path to listen on, or @NAME")
    parser.add_argument(
        "--mode", type=_octal, default=0o660, help="permissions of the socket (default 660)"
    )
    parser.add_argument("--owner", help="owner of the socket")
    parser.add_argument("--group", help="group of the socket")
    return parser.parse_args(arguments)


def _octal(text: str) -> int:
    value = int(text, 8)
    if not 0 <= value <= 0o777:
        raise ValueError(text)
    return value


def _find_app() -> type[DemoApp]:
    try:
        from .demo_app import DemoApp
    except ModuleNotFoundError as exc:
        sys.exit(f"the demo needs {exc.name}: pip install 'ktlsgate[demo]'")
    return DemoApp


async def _run(app: DemoApp, listener: HandoffListener) -> None:
    """Serve until a signal comes; then let running answers end, for a while."""
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_trio, app.serve, listener)
        logging.getLogger("ktlsgate.backend").info("taking handoffs at %s", listener.address)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
            await listener.aclose()
            nursery.cancel_scope.deadline = trio.current_time() + _DRAIN


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo; exits with status 1 when it cannot begin.

    Args:
        arguments: command line, None for this process's.
    """
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    demo_app = _find_app()
    try:
        listener = bind_unix_listener(
            options.socket, owner=options.owner, group=options.group, mode=options.mode
        )
    except (ConfigError, OSError) as exc:
        sys.exit(str(exc))
    with contextlib.closing(demo_app()) as app:
        trio.run(_run, app, HandoffListener(listener), strict_exception_groups=True)


if __name__ == "__main__":
    main()
