"""KeyUpdates after the handoff, by real clients: `openssl s_client` and `gnutls-cli`."""

import contextlib
import hashlib
import json
import re
import time

import pytest
from helpers.backends import digest, pattern
from helpers.gate_process import gate_config, start_gate, tls_files
from helpers.interactive import gnutls_cli, s_client
from helpers.ktls import TLS13, kernel_table, require_ktls, require_rekey
from helpers.rekey_backend import start_rekey_backend

pytestmark = [pytest.mark.ktls, pytest.mark.slow]

REQUEST = b"GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
UPGRADED = b"Upgrade: echo\r\n\r\n"
NO_KEY_UPDATE = (
    "the client sent a KeyUpdate, and this backend cannot install the next receiving key"
)
FLAVOURS = pytest.mark.parametrize("flavour", ["Blocking", "Trio"])


@contextlib.contextmanager
def stage(folder, flavour, *, record_limit=0, route="share_secrets = true"):
    """A backend of ours and a gate that shares secrets with it."""
    tls_files(folder)
    config = gate_config(folder, backend=folder / "app.sock", tls="tickets = false", route=route)
    with (
        start_rekey_backend(folder / "app.sock", flavour, record_limit=record_limit) as backend,
        start_gate(folder, config) as gate,
    ):
        yield gate, backend


def line(number):
    """A line that no client takes for a command."""
    return b"%04d " % number + b"0123456789" * 200 + b"\n"


def converse(client, commands, *, pause=0.0):
    """Send a line behind each command and wait for its echo; the hash of all lines."""
    client.write(REQUEST)
    client.wait_for(UPGRADED)
    sent = hashlib.sha256()
    for number, command in enumerate(commands):
        if command:
            client.write(command)
            time.sleep(0.02)  # so that it is read by itself
        client.write(line(number))
        sent.update(line(number))
        client.wait_for(line(number))
        time.sleep(pause)
    return sent.hexdigest()


@FLAVOURS
@pytest.mark.parametrize(("command", "ours"), [(b"k\n", 0), (b"K\n", 40)], ids=["k", "K"])
def test_forty_key_updates_by_s_client(tmp_path, flavour, command, ours):
    require_rekey(TLS13)
    with stage(tmp_path, flavour) as (gate, backend):
        with s_client(gate) as client:
            sent = converse(client, [command] * 40)
            client.end()
        ended = backend.next_event("ended")
        assert ended["generations"] == [ours, 40]
        assert ended["sha256"] == sent
        assert gate.next_report()["ktls"] == "tx+rx"


@pytest.mark.parametrize(("command", "ours"), [(b"^rekey1^\n", 0), (b"^rekey^\n", 40)], ids=str)
def test_forty_key_updates_by_gnutls(tmp_path, command, ours):
    """GnuTLS bears eight KeyUpdates in a second, so ours are given time."""
    require_rekey(TLS13)
    with stage(tmp_path, "Trio") as (gate, backend):
        with gnutls_cli(gate) as client:
            sent = converse(client, [command] * 40, pause=0.12 if ours else 0)
            client.end()
        ended = backend.next_event("ended")
        assert ended["generations"] == [ours, 40], ended
        assert ended["sha256"] == sent


@FLAVOURS
def test_forty_key_updates_of_ours_to_s_client(tmp_path, flavour):
    """4 MB in 64 writes of four records each, every one of them under another key."""
    require_rekey(TLS13)
    size = 4 << 20
    with stage(tmp_path, flavour, record_limit=4) as (gate, backend):
        with s_client(gate) as client:
            client.write(f"GET /big?n={size} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"200 OK" in client.wait_for(f"Content-Length: {size}\r\n\r\n".encode())
            data = client.rest()
        assert digest(data[:size]) == digest(pattern(size))
        ours, theirs = backend.next_event("ended")["generations"]
        assert ours >= 40
        assert theirs == 0


def test_forty_key_updates_of_ours_to_gnutls(tmp_path):
    require_rekey(TLS13)
    with stage(tmp_path, "Blocking", record_limit=2) as (gate, backend):
        with gnutls_cli(gate) as client:
            converse(client, [b""] * 90, pause=0.07)
            client.end()
        ours, theirs = backend.next_event("ended")["generations"]
        assert ours >= 40
        assert theirs == 0 or ours >= theirs  # we ask for the client's, too


def test_key_updates_of_both_sides_cross(tmp_path):
    require_rekey(TLS13)
    with stage(tmp_path, "Trio", record_limit=3) as (gate, backend):
        with s_client(gate) as client:
            sent = converse(client, [b"K\n", b"k\n", b"", b""] * 15)
            client.end()
        ended = backend.next_event("ended")
        assert ended["sha256"] == sent
        assert min(ended["generations"]) >= 30


def test_i5_neither_log_nor_backend_shows_a_secret(tmp_path):
    require_rekey(TLS13)
    keys = tmp_path / "keys.txt"
    with stage(tmp_path, "Trio") as (gate, backend):
        with s_client(gate, "-keylogfile", str(keys)) as client:
            converse(client, [b"K\n"])
            client.end()
        ended = backend.next_event("ended")
        gate.next_report()
        gate.terminate()
        found = re.findall(
            r"^(CLIENT|SERVER)_TRAFFIC_SECRET_0 \w+ (\w+)$", keys.read_text(), re.MULTILINE
        )
        assert len(found) == 2
        texts = json.dumps(gate.messages) + json.dumps(ended)
        assert "SSL_CIPHER" in texts
        assert not [kind for kind, secret in found if secret in texts]
        assert "_SECRET" not in texts


@pytest.mark.parametrize("route", ["share_secrets = true", ""], ids=["shared", "not shared"])
@FLAVOURS
def test_elsewhere_a_key_update_is_a_clean_end_with_its_reason(tmp_path, flavour, route):
    require_ktls(TLS13)
    if route and kernel_table().can_rekey:
        pytest.skip("this kernel can rekey")
    with stage(tmp_path, flavour, route=route) as (gate, backend):
        with s_client(gate) as client:
            client.write(REQUEST)
            client.wait_for(UPGRADED)
            client.write(line(0))
            client.wait_for(line(0))
            client.write(b"k\n")
            time.sleep(0.1)
            with contextlib.suppress(BrokenPipeError):
                client.write(line(1))
            assert b"closed" in client.rest()
        ended = backend.next_event("ended")
        assert ended["generations"] is None
        assert ended["error"].endswith(": " + NO_KEY_UPDATE)
        assert ended["sha256"] == digest(line(0))
