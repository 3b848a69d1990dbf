"""The process that serves: listeners, signals, Trio, the end.

Order at start, so that everything that can be wrong is said before the first
client: certificates, OpenSSL contexts, the kernel's abilities, log, ports.

TERM and INT: stop accepting, wait for what the gate still holds (at most
``drain_timeout``), end. Nothing that was handed over is touched: it is not ours.
A second signal ends at once.
"""

from __future__ import annotations

import functools
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import trio
from OpenSSL import SSL

from ..config import Config, KtlsPolicy, Listener, Offload
from ..errors import ConfigError
from ..gate.context import SessionContext
from ..gate.disposal import Disposal
from ..gate.fibers import Fibers
from ..gate.listener import Gatekeeper, serve_listener
from ..kernel.engines import Engine
from ..kernel.openssl_probe import probe_openssl
from ..kernel.privileges import forbid_dumps, raise_open_files
from ..kernel.probe import OffloadTable, probe_offload
from ..kernel.sockets import bind_listeners, format_address, unmap_address
from ..metrics import Metrics
from ..wire.tls_context import build_server_context
from .certificates import load_client_ca, load_identity
from .engine_choice import asks_for_keys, choose_engine
from .logs import open_logs

__all__ = ["build_tls", "run"]

_log = logging.getLogger("ktlsgate")

EXIT_CLEAN = 0
EXIT_DRAIN_TIMED_OUT = 3

# The client's socket, our end of the socketpair, the Unix connection beside it. For a moment,
# while it is handed over, there is the backend's end of the socketpair, too.
_FILES_PER_RELAY = 3


def build_tls(config: Config) -> dict[Engine, SSL.Context]:
    """Read the certificates and make one context for each engine, which its listeners share.

    Raises:
        ConfigError: with the file or the key at fault.
    """
    if config.certificate is None:
        return {}
    identity = load_identity(config.certificate)
    for warning in identity.warnings:
        _log.warning("%s", warning)
    client_cas = load_client_ca(config.tls.client_ca) if config.tls.client_ca else ()
    return {
        engine: build_server_context(
            config.tls,
            identity.chain,
            identity.key,
            client_cas,
            lets_openssl_offload=engine is Engine.OPENSSL,
        )
        for engine in Engine
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """One listening socket and what its sessions share."""

    sock: socket.socket
    context: SessionContext


_Ready = Callable[[list[tuple[str, int]]], None]


def run(config: Config, ready: _Ready | None = None) -> int:
    """Serve until a signal.

    Args:
        config: checked.
        ready: called once with the addresses bound, when clients can connect and
            signals are heard.

    Returns:
        0 after everything was done, 3 when the drain timed out.

    Raises:
        ConfigError: a certificate, a port or the kernel does not allow it.
    """
    forbid_dumps()
    with ExitStack() as cleanup:
        report = cleanup.enter_context(open_logs(config.logging)).write_report
        tls = build_tls(config)
        disposal = Disposal()
        cleanup.callback(disposal.close)
        table = _probe(config)
        engines = _choose_engines(config, table)
        shared = functools.partial(
            SessionContext.make,
            table=table,
            routes=config.routes,
            limits=config.limits,
            metrics=Metrics(),
            disposal=disposal,
            report=report,
        )
        bound = _bind(config.listeners, engines, tls, shared)
        for one in bound:
            cleanup.callback(one.sock.close)
        _warn_of_few_files(raise_open_files(), config.limits.max_connections)
        return trio.run(_serve, config, bound, ready, strict_exception_groups=True)


def _warn_of_few_files(open_files: int, connections: int) -> None:
    """Say so if not as many connections as may be held could all be relayed."""
    if open_files < _FILES_PER_RELAY * connections:
        _log.warning(
            "the limit of open files is %d: at most %d connections can be relayed at once",
            open_files,
            open_files // _FILES_PER_RELAY,
        )


def _probe(config: Config) -> OffloadTable:
    """Ask the kernel once; say in one line what it allows."""
    table = probe_offload()
    _log.info("%s", table.summary())
    for listener in config.listeners:
        if listener.tls and listener.ktls is KtlsPolicy.REQUIRE:
            _require(listener, table)
    if any(route.share_secrets for route in config.routes) and not table.can_rekey:
        why = table.ulp_reason or table.rekey.reason
        _log.warning("share_secrets shares none here: %s", why)
    return table


def _require(listener: Listener, table: OffloadTable) -> None:
    """Refuse to start where every connection would be answered 503."""
    begin = f'listen {listener.address}: ktls = "require": expected a kernel'
    if listener.offload is not Offload.NONE and table.ulp_reason:
        raise ConfigError(f"{begin} with kTLS, got one without: {table.ulp_reason}")
    if listener.offload is Offload.BOTH and table.best is Offload.TX:
        raise ConfigError(f'{begin} that can do offload = "both", got one that can do "tx" only')


def _choose_engines(config: Config, table: OffloadTable) -> list[Engine]:
    """Choose for each listener; say which and why where there is a choice."""
    if table.ulp_reason or not any(map(asks_for_keys, config.listeners)):
        return [Engine.DIRECT] * len(config.listeners)
    trials = probe_openssl(table)
    chosen = []
    for listener in config.listeners:
        engine, line = Engine.DIRECT, ""
        if asks_for_keys(listener):
            engine, line = choose_engine(listener, config, trials)
            _log.info("%s", line)
        chosen.append(engine)
    return chosen


def _bind(
    listeners: Sequence[Listener],
    engines: Sequence[Engine],
    tls: Mapping[Engine, SSL.Context],
    make_context: Callable[..., SessionContext],
) -> list[_Bound]:
    bound: list[_Bound] = []
    for listener, engine in zip(listeners, engines, strict=True):
        context = make_context(
            listener=listener, tls=tls[engine] if listener.tls else None, engine=engine
        )
        try:
            socks = _bind_one(listener)
        except ConfigError:
            for one in bound:
                one.sock.close()
            raise
        bound += [_Bound(sock=sock, context=context) for sock in socks]
    return bound


def _bind_one(listener: Listener) -> list[socket.socket]:
    try:
        return bind_listeners(listener.address, listener.backlog)
    except (OSError, ValueError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConfigError(
            f"listen {listener.address}: expected an address to bind, got {reason}"
        ) from exc


def _announce(bound: list[_Bound], ready: _Ready | None) -> None:
    addresses = [unmap_address(one.sock.getsockname()) for one in bound]
    for one, address in zip(bound, addresses, strict=True):
        scheme = "https" if one.context.tls else "http"
        _log.info("listening on %s://%s", scheme, format_address(address))
    if ready:
        ready(addresses)


async def _serve(config: Config, bound: list[_Bound], ready: _Ready | None) -> int:
    gatekeeper = Gatekeeper(config.limits.max_connections)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        _announce(bound, ready)
        async with trio.open_nursery() as sessions:
            fibers = Fibers()
            sessions.start_soon(fibers.run)
            sessions.start_soon(gatekeeper.trimmer.run)
            async with trio.open_nursery() as accepting:
                for one in bound:
                    accepting.start_soon(serve_listener, one.sock, one.context, gatekeeper, fibers)
                await _wait_signal(signals, gatekeeper)
                accepting.cancel_scope.cancel()
            for one in bound:
                trio.lowlevel.notify_closing(one.sock)
                one.sock.close()
            is_drained = await _drain(gatekeeper, config.limits.drain_timeout, signals)
            sessions.cancel_scope.cancel()
    if is_drained:
        _log.info("ended")
        return EXIT_CLEAN
    return EXIT_DRAIN_TIMED_OUT


async def _wait_signal(signals: AsyncIterator[int], gatekeeper: Gatekeeper) -> None:
    number = await signals.__anext__()
    _log.info(
        "%s: no longer accepting, %d connections held", signal.Signals(number).name, gatekeeper.held
    )


async def _drain(gatekeeper: Gatekeeper, timeout: float, signals: AsyncIterator[int]) -> bool:
    """Wait until nothing is held; whether that came before the time and a second signal."""
    with trio.move_on_after(timeout) as limit:
        if not gatekeeper.held:
            return True
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await signals.__anext__()
                limit.cancel()

            nursery.start_soon(hurry)
            await gatekeeper.wait_empty()
            nursery.cancel_scope.cancel()
    if gatekeeper.held:
        _log.warning("ended with %d connections held", gatekeeper.held)
    return not gatekeeper.held
