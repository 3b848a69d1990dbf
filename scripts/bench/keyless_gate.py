"""The gate as on a kernel with kTLS, on one without: for measuring, never for serving.

    python -m bench.keyless_gate CONFIG

Everything is the gate's own code but for the functions that ask the kernel for kTLS. Before the
gate is imported each is replaced by one that makes a harmless system call of the same kind, so
that keys are derived and packed, as many system calls are made, and the connection is handed over.
Then client and backend speak IN CLEAR. Therefore it listens on 127.0.0.1 only.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from ktlsgate.config import Config, Offload
from ktlsgate.errors import ConfigError
from ktlsgate.kernel import ktls
from ktlsgate.wire.crypto_info import RxCryptoInfo, TxCryptoInfo

__all__ = ["main"]

_LOOPBACK = "127.0.0.1:"


def _set_nothing(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 0)


def _attach_ulp(sock: socket.socket) -> None:
    _set_nothing(sock)


def _install(sock: socket.socket, info: TxCryptoInfo | RxCryptoInfo) -> None:
    info.pack()
    _set_nothing(sock)


def _has(sock: socket.socket) -> bool:
    return len(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 4)) == 4


_SUBSTITUTES = {
    "attach_ulp": _attach_ulp,
    "install_tx": _install,
    "install_rx": _install,
    "has_tx": _has,
    "has_rx": _has,
}


def _substitute() -> None:
    """Replace what asks the kernel, before anybody has imported it by name."""
    if any(name.startswith("ktlsgate.gate") for name in sys.modules):
        raise AssertionError("the gate was imported before its kernel was replaced")
    for name, substitute in _SUBSTITUTES.items():
        if not hasattr(ktls, name):
            raise AssertionError(f"ktlsgate.kernel.ktls has no {name} any more")
        setattr(ktls, name, substitute)
    from ktlsgate.kernel import openssl_probe, probe

    def probe_offload() -> probe.OffloadTable:
        return probe.OffloadTable.all()

    def probe_openssl(table: probe.OffloadTable) -> openssl_probe.OpenSslReport:  # noqa: ARG001
        return openssl_probe.OpenSslReport(libraries=openssl_probe.Libraries())

    probe.probe_offload = probe_offload
    openssl_probe.probe_openssl = probe_openssl


def _check(config: Config) -> None:
    for listener in config.listeners:
        if not listener.address.startswith(_LOOPBACK):
            raise ConfigError(f"expected an address on 127.0.0.1, got {listener.address}")
        if listener.offload is not Offload.BOTH:
            raise ConfigError('expected offload = "both": the rest can be measured anywhere')


def main() -> int:
    """Run as a program."""
    _substitute()
    from ktlsgate.service.config_file import load_config
    from ktlsgate.service.config_flags import Flags
    from ktlsgate.service.worker import run

    if len(sys.argv) != 2:
        print("usage: python -m bench.keyless_gate CONFIG", file=sys.stderr)
        return 2
    try:
        config = load_config(str(Path(sys.argv[1])), flags=Flags())
        _check(config)
        return run(config)
    except ConfigError as exc:
        print(f"keyless_gate: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
