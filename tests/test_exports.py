"""What users of the package import: the names are pinned, and so is what they cost."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

PUBLIC = {
    "ktlsgate.errors": [
        "BackendFailed",
        "BackendUnavailable",
        "BadRecord",
        "CipherUnsupported",
        "ConfigError",
        "ConnectionCut",
        "FatalAlert",
        "HandoffError",
        "HandoffMalformed",
        "HandshakeFailed",
        "HeadRejected",
        "KtlsUnavailable",
        "KtlsgateError",
        "LocalProtocolError",
        "RemoteProtocolError",
        "ResourceShortage",
    ],
    "ktlsgate.config": [
        "Backend",
        "Certificate",
        "ClientVerify",
        "Config",
        "Dialect",
        "EngineChoice",
        "Keepalive",
        "KtlsPolicy",
        "Limits",
        "Listener",
        "LogFormat",
        "Logging",
        "Offload",
        "Route",
        "RxFallback",
        "Tls",
    ],
    "ktlsgate.metrics": ["Metrics"],
    # The receiving side's entry points.
    "ktlsgate.backend.unix_listener": ["DEFAULT_BACKLOG", "UnixListener", "bind_unix_listener"],
    "ktlsgate.backend.serving": ["CrashCallback", "Handler", "HandoffListener", "serve_trio"],
    "ktlsgate.backend.trio_connection": ["ClientConnection"],
    "ktlsgate.backend.blocking_listener": ["BlockingHandoffListener"],
    "ktlsgate.backend.blocking_connection": ["BlockingClientConnection", "wait_for"],
    "ktlsgate.backend.handoff_socket": ["HandoffSocket"],
    "ktlsgate.backend.aio": ["HandoffEventLoop", "create_server"],
    "ktlsgate.backend.middleware": ["AsgiApp", "HandoffAsgi", "HandoffWsgi", "WsgiApp"],
    "ktlsgate.wire.handoff": ["FINISHED", "RECEIVED", "Address", "Handoff", "Mode", "TlsFacts"],
}

GATE_ONLY = ["OpenSSL", "cryptography"]
BLOCKING = [
    "ktlsgate.backend.blocking_connection",
    "ktlsgate.backend.aio",
    "ktlsgate.backend.blocking_listener",
    "ktlsgate.backend.handoff_socket",
    "ktlsgate.backend.middleware",
    "ktlsgate.backend.unix_listener",
    "ktlsgate.wire.handoff_scgi",
]
ON_TRIO = ["ktlsgate.backend.serving", "ktlsgate.backend.trio_connection"]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_these(name):
    module = importlib.import_module(name)
    assert module.__all__ == PUBLIC[name]
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize(
    ("names", "absent"),
    [(BLOCKING, [*GATE_ONLY, "trio"]), (BLOCKING + ON_TRIO, GATE_ONLY), (["ktlsgate"], ["trio"])],
    ids=["blocking", "trio", "package"],
)
def test_receiving_side_needs_no_library_of_the_gate(names, absent):
    """Imported in a process of its own where the libraries cannot be imported."""
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_star_import_of_errors_brings_errors_only():
    names = {}
    exec("from ktlsgate.errors import *", names)
    del names["__builtins__"]
    assert sorted(names) == PUBLIC["ktlsgate.errors"]
    assert all(issubclass(kind, Exception) for kind in names.values())
