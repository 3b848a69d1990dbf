"""The verb ``serve``: an ASGI or WSGI application on connections that a gate hands over.

The server is hypercorn on Trio, or uvicorn on asyncio; both come with the extra
``serve``. SIGTERM and SIGINT end it: no more connections, running requests have
``--graceful-timeout`` seconds, and then the exit code is 0.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from ..backend.unix_listener import UnixListener, bind_unix_listener
from ..errors import ConfigError

__all__ = ["load_application", "serve"]

_INSTALL = "pip install 'ktlsgate[serve]'"


def serve(options: argparse.Namespace) -> int:
    """Serve until a signal comes; 0.

    Raises:
        ConfigError: there is no such application, the server is not installed or cannot
            serve this kind, or the socket cannot be made.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    app = load_application(options.application)
    is_asgi = options.interface == "asgi" or (options.interface == "auto" and _is_asgi(app))
    run = _SERVERS[options.server](app, is_asgi=is_asgi, limit=options.graceful_timeout)
    try:
        listener = bind_unix_listener(
            options.socket, owner=options.owner, group=options.group, mode=options.mode
        )
    except OSError as exc:
        raise ConfigError(f"{options.socket}: {exc.strerror}") from exc
    logging.getLogger("ktlsgate.backend").info("taking handoffs at %s", listener.address)
    run(listener)
    return 0


def load_application(name: str) -> Any:
    """Import ``MODULE:APP``; modules of the current folder are found, too.

    Raises:
        ConfigError: there is no such module or name in it.
    """
    module_name, _, path = name.partition(":")
    if sys.path[:1] != [""]:
        sys.path.insert(0, "")
    try:
        found: Any = importlib.import_module(module_name)
    except (ModuleNotFoundError, ValueError) as exc:
        absent = getattr(exc, "name", None) or module_name
        if not f"{module_name}.".startswith(f"{absent}."):
            raise  # the module is there; what it imports is not
        raise ConfigError(f"expected a module {module_name!r}, found none") from exc
    for part in (path or "app").split("."):
        try:
            found = getattr(found, part)
        except AttributeError as exc:
            raise ConfigError(f"expected {part!r} in {module_name}, found no such name") from exc
    return found


def _is_asgi(app: Any) -> bool:
    while isinstance(app, functools.partial):
        app = app.func
    call = getattr(app, "__call__", None)  # noqa: B004 - it is looked at, not asked for
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(call)


def _hypercorn(app: Any, *, is_asgi: bool, limit: float) -> Callable[[UnixListener], None]:
    try:
        from ..backend import hypercorn_trio
    except ImportError as exc:
        raise _not_installed("hypercorn", exc) from exc
    import trio
    from hypercorn.config import Config

    from ..backend.serving import HandoffListener

    config = Config()
    config.graceful_timeout = limit
    start = hypercorn_trio.serve_asgi if is_asgi else hypercorn_trio.serve_wsgi

    async def main(listener: UnixListener) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await start(app, HandoffListener(listener), until=signals.__anext__, config=config)

    def run(listener: UnixListener) -> None:
        trio.run(main, listener, strict_exception_groups=True)

    return run


def _uvicorn(app: Any, *, is_asgi: bool, limit: float) -> Callable[[UnixListener], None]:
    if not is_asgi:
        raise ConfigError("--server uvicorn: expected an ASGI application, got a WSGI one")
    try:
        from uvicorn import Config, Server
    except ImportError as exc:
        raise _not_installed("uvicorn", exc) from exc
    from ..backend.handoff_socket import HandoffSocket
    from ..backend.middleware import HandoffAsgi

    def run(unix: UnixListener) -> None:
        with HandoffSocket(unix) as listener:
            config = Config(
                HandoffAsgi(app, listener),
                loop="ktlsgate.backend.aio:HandoffEventLoop",
                timeout_graceful_shutdown=max(round(limit), 1),
                proxy_headers=False,  # the gate says what is true; clients say what they like
            )
            # It sends itself the signal again when all is done; that is not to end us.
            signal.signal(signal.SIGTERM, _ignore)
            signal.signal(signal.SIGINT, _ignore)
            Server(config).run(sockets=[listener])

    return run


_SERVERS: dict[str, Callable[..., Callable[[UnixListener], None]]] = {
    "hypercorn": _hypercorn,
    "uvicorn": _uvicorn,
}


def _ignore(_number: int, _frame: object) -> None:
    """Take a signal and do nothing."""


def _not_installed(server: str, exc: ImportError) -> ConfigError:
    what = (exc.name or server).partition(".")[0]
    return ConfigError(f"--server {server}: expected {what} to be installed: {_INSTALL}")
