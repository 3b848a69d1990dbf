"""A gate, a backend behind it, and clients in front of it, all as processes of their own.

    with start_front(folder) as front:
        target = front.target("/facts")
        facts = json.loads(front.curl(target).stdout)
        report = front.report(target)

`target` makes every request's target unique, so that reports need not come in order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib

from helpers.backends import Backend, start_backend
from helpers.clients import PlainClient, TlsClient, body_of, client_context, run_curl, run_s_client
from helpers.gate_process import GateProcess, gate_config, start_gate, tls_files
from helpers.ktls import kernel_table

from ktlsgate.config import Offload
from ktlsgate.wire.ciphers import SUITES

# Everything that OpenSSL may still speak; level 0 lets CCM-8 and CBC with SHA-1 pass.
ALL_CIPHERS = """
ciphers = "ALL:@SECLEVEL=0"
ciphersuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256\
:TLS_AES_128_CCM_SHA256:TLS_AES_128_CCM_8_SHA256"
"""

# One listener for each mode that this kernel can do, by these names in this order.
LISTENERS = ["default", "tx", "plain", "relay"]
FOUR_LISTENERS = """
log_format = "json"
[[cert]]
file = "{folder}/server.pem"
key = "{folder}/server.key"
[[listen]]
address = "127.0.0.1:0"
[[listen]]
address = "127.0.0.1:0"
offload = "tx"
[[listen]]
address = "127.0.0.1:0"
tls = false
[[listen]]
address = "127.0.0.1:0"
ktls = "off"
"""

KTLS_LABELS = {Offload.BOTH: "tx+rx", Offload.TX: "tx", Offload.NONE: "none"}
MODES = {Offload.BOTH: "both", Offload.TX: "tx", Offload.NONE: "relay"}


def expected_offload(cipher):
    """What this kernel takes over of a suite, by OpenSSL's name of it."""
    suite = SUITES.get(cipher)
    return kernel_table().supports(suite) if suite else Offload.NONE


def mode_of(report):
    """The mode of a connection as its report tells it."""
    if "tls" not in report:
        return "plain"
    return {"tx+rx": "both", "tx": "tx", "none": "relay"}[report["ktls"]]


def assert_offload(facts, report):
    """The kernel holds exactly what its probe promised, says the backend's own socket."""
    offload = expected_offload(report["cipher"])
    environ = facts["environ"]
    assert report["ktls"] == KTLS_LABELS[offload], report
    assert environ["KTLSGATE_MODE"] == MODES[offload]
    assert environ["HTTPS"] == "on"
    assert environ["KTLS_RX"] == "1"
    assert facts["is_nonblocking"]
    if offload is Offload.BOTH:
        suite = SUITES[report["cipher"]]
        assert report["event"] == "handoff", report
        assert "reason" not in report
        assert "fallback" not in report
        assert facts["ulp"] == "tls"
        assert facts["tx"] == facts["rx"] == [suite.version, suite.cipher]
        assert "tcp-ulp-tls" in facts["ss"]
        assert "rxconf: sw txconf: sw" in facts["ss"]
    else:
        assert report["event"] == "relay", report
        assert report["fallback"]
        assert facts["family"] == "AF_UNIX"


class Front:
    """What a test needs of a running gate."""

    def __init__(self, folder: pathlib.Path, gate: GateProcess, backend: Backend, authority):
        self.folder = folder
        self.gate = gate
        self.backend = backend
        self.authority = authority
        self.ca = folder / "ca.pem"
        self._numbers = itertools.count(1)
        self._reports: list[dict] = []

    @property
    def port(self):
        return self.gate.port

    def target(self, path):
        """A target that no other request has."""
        return f"{path}{'&' if '?' in path else '?'}id={next(self._numbers)}"

    def report(self, target=None, *, port=None, client=None):
        """The report of a target, a client, or a client's port; others wait for who asks."""

        def fits(report):
            if target:
                return report.get("target") == target
            return report["client"] == client or report["client"].endswith(f":{port}")

        while not (found := next((each for each in self._reports if fits(each)), None)):
            self._reports.append(self.gate.next_report())
        self._reports.remove(found)
        return found

    def curl(self, target, *arguments, port=None, data=None):
        return run_curl(port or self.port, target, *arguments, ca=self.ca, data=data)

    def s_client(self, data, *arguments, port=None):
        return run_s_client(port or self.port, data, *arguments, ca=self.ca)

    def client(self, context=None, *, port=None, **how):
        return TlsClient(port or self.port, context, **how)

    def port_of(self, listener):
        """The port of one of `FOUR_LISTENERS`."""
        return self.gate.ports[LISTENERS.index(listener)]

    def connect_to(self, listener, version=None):
        """A client of one of `FOUR_LISTENERS` that has shaken hands, if there are hands to shake."""
        port = self.port_of(listener)
        if listener == "plain":
            return PlainClient(port)
        return self.client(client_context(version=version), port=port).handshake()

    def facts(self, client, target):
        """Ask for /facts as a `TlsClient` that has shaken hands."""
        client.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return json.loads(body_of(client.read_all()[0]))


@contextlib.contextmanager
def start_front(folder, *, config=None, env=None, listeners=1, **tables):
    """Start a backend and a gate; ``tables`` go to `gate_config` unless ``config`` is whole.

    A ``config`` may name ``{folder}`` and ``{backend}`` (the address of the backend's socket).
    """
    authority = tls_files(folder)
    socket_path = folder / "app.sock"
    if config is None:
        config = gate_config(folder, backend=socket_path, **tables)
    else:
        config = config.replace("{folder}", str(folder)).replace("{backend}", f"unix:{socket_path}")
    with (
        start_backend(socket_path) as backend,
        start_gate(folder, config, listeners=listeners, env=env) as gate,
    ):
        yield Front(folder, gate, backend, authority)
