"""Invariant I5 in the gate: who is given the secrets, and that no copy of them stays."""

import contextlib
import dataclasses
import errno
import gc

import pytest
import trio
import trio.testing
from helpers.identities import Authority
from helpers.ktls import kernel_table, require_ktls, require_rekey
from helpers.memory_tls import Client, client_context, server_context, shake_hands
from helpers.sessions import (
    NO_KTLS,
    REQUEST,
    close,
    in_fiber,
    make_backend,
    make_context,
    open_backend,
    open_session,
    read_all,
    tcp_pair,
)

from ktlsgate.config import Backend, Dialect, Offload, Route
from ktlsgate.errors import BackendFailed
from ktlsgate.gate.client import KernelClient
from ktlsgate.gate.disposal import Disposal
from ktlsgate.gate.offload import offload
from ktlsgate.kernel.ktls import TLS_RX, TLS_TX
from ktlsgate.kernel.probe import OffloadTable
from ktlsgate.kernel.trials import NOT_TRIED
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handoff import Handoff, Mode, TlsFacts
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.http_head import HeadLimits, scan_head
from ktlsgate.wire.key_schedule import TrafficSecret, TrafficSecrets
from ktlsgate.wire.keylog import CLIENT_TRAFFIC_SECRET, SERVER_TRAFFIC_SECRET
from ktlsgate.wire.routes import RouteTable

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
ALL = OffloadTable.all()
CANNOT_REKEY = dataclasses.replace(ALL, rekey=NOT_TRIED)


def alive():
    """Secrets that anybody in this process holds, but for OpenSSL's own."""
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, TrafficSecrets)]


# What the handshake's end keeps.


class FakeSocket:
    """Takes keys, but for a direction that it refuses."""

    def __init__(self, refused=0):
        self.refused = refused
        self.keys = {}

    def setsockopt(self, _level, option, value):
        if option == self.refused:
            raise OSError(errno.EINVAL, "no")
        self.keys[option] = value

    def getsockopt(self, _level, option, size):
        return self.keys[option][:size]


@pytest.fixture(scope="module")
def context():
    return server_context(Authority().issue("localhost"))


def offloaded(context, *, version="TLSv1.3", table=ALL, keeps=True, refused=0, most=Offload.BOTH):
    client = Client(client_context(version))
    handshake = Handshake(context)
    shake_hands(handshake, client)
    found = offload(
        FakeSocket(refused),
        handshake,
        handshake.established(),
        table=table,
        most=most,
        keeps_secrets=keeps,
    )
    return found, client


def test_i5_secrets_are_kept_for_who_may_be_given_them(context):
    found, client = offloaded(context)
    assert found.offload is Offload.BOTH
    assert found.secrets.tx.secret == client.secrets[SERVER_TRAFFIC_SECRET]
    assert found.secrets.rx.secret == client.secrets[CLIENT_TRAFFIC_SECRET]
    assert found.secrets.tx.suite is found.secrets.rx.suite
    assert repr(found.secrets.tx.secret) not in repr(found)
    assert "secrets" not in repr(found)


@pytest.mark.parametrize(
    "how",
    [
        {"keeps": False},
        {"version": "TLSv1.2"},
        {"table": CANNOT_REKEY},
        {"refused": TLS_RX},
        {"refused": TLS_TX},
        {"most": Offload.TX},
        {"most": Offload.NONE},
        {"table": NO_KTLS},
    ],
    ids=str,
)
def test_i5_secrets_are_not_kept_where_they_would_be_of_no_use(context, how):
    before = alive()
    found, _ = offloaded(context, **how)
    assert found.secrets is None
    assert len(alive()) == len(before)


# Giving them away.


def handoff():
    head, _ = scan_head(REQUEST, limits=HeadLimits())
    return Handoff(
        head=head,
        mode=Mode.BOTH,
        tls=TlsFacts(protocol="TLSv1.3", cipher=SUITE.name),
        remote=("192.0.2.7", 40000),
        local=("192.0.2.1", 443),
        is_single=False,
        secrets=TrafficSecrets(
            tx=TrafficSecret(secret=b"t" * 32, suite=SUITE),
            rx=TrafficSecret(secret=b"r" * 32, suite=SUITE),
        ),
    )


@contextlib.asynccontextmanager
async def giving_away(backend, made=handoff):
    ours, theirs = tcp_pair()
    client = KernelClient(theirs, is_tls=True)

    async def give():
        with contextlib.suppress(BackendFailed):
            await in_fiber(
                lambda: Disposal().give_away(
                    made(), make_backend(backend.address), client, b"", idle_timeout=1
                )
            )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give)
        yield nursery.cancel_scope
    close(theirs)
    ours.close()


async def test_i5_the_gates_copy_is_gone_before_the_backend_has_read_it(tmp_path):
    before = alive()
    with open_backend(tmp_path) as backend:
        async with giving_away(backend):
            unix = await backend.accept()
            await trio.testing.wait_all_tasks_blocked()
            assert len(alive()) == len(before)
            head, _, _ = await backend.take(unix)
    assert head.secrets.tx.secret == b"t" * 32
    assert head.secrets.rx.secret == b"r" * 32


async def test_i5_a_handoff_that_fails_keeps_nothing(tmp_path):
    before = alive()
    with open_backend(tmp_path) as backend:
        async with giving_away(backend):
            close(await backend.accept())
        assert len(alive()) == len(before)


# Sessions on a kernel that encrypts.


async def session_head(tmp_path, version=None, **route):
    """What a backend is told of a TLS connection, and the client's end."""
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address, table=kernel_table(), **route)
        async with open_session(context) as session:
            tls = await session.start_tls(version)
            await tls.send_all(REQUEST)
            head, sock, _ = await backend.take()
            close(sock)
            session.client.socket.close()
        assert head.mode is Mode.BOTH
        return head


@pytest.mark.ktls
async def test_a_route_that_shares_secrets_gives_them_to_its_backend(tmp_path):
    require_rekey()
    head = await session_head(tmp_path, share_secrets=True)
    assert head.environ["SSL_PROTOCOL"] == "TLSv1.3"
    assert head.secrets.tx.suite.name == head.environ["SSL_CIPHER"]
    assert len({head.secrets.tx.secret, head.secrets.rx.secret}) == 2
    assert not [name for name in head.environ if "SECRET" in name]


@pytest.mark.ktls
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("is_shared", [True, False])
async def test_secrets_go_nowhere_else(tmp_path, version, is_shared):
    require_ktls()
    if version == "TLSv1.3" and is_shared and kernel_table().can_rekey:
        pytest.skip("this kernel can rekey")
    import ssl

    number = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}[version]
    head = await session_head(tmp_path, number, share_secrets=is_shared)
    assert head.environ["SSL_PROTOCOL"] == version
    assert head.secrets is None


@pytest.mark.ktls
async def test_another_route_of_the_listener_gets_no_secrets(tmp_path):
    """They were kept for the first route, and the request took the second."""
    require_rekey()
    with open_backend(tmp_path) as backend:
        first = Backend(name="trusted", addresses=("/nowhere",))
        second = Backend(name="app", addresses=(backend.address,), dialect=Dialect.KTLSGATE)
        routes = (
            Route(backend=first, path="/trusted", share_secrets=True),
            Route(backend=second),
        )
        context = make_context(backend.address, table=kernel_table())
        context = dataclasses.replace(context, routes=RouteTable(routes), keeps_secrets=True)
        async with open_session(context) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            head, sock, _ = await backend.take()
            close(sock)
            session.client.socket.close()
        assert head.secrets is None
        assert session.report.backend == "app"


async def test_a_relay_shares_nothing(tmp_path):
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address, share_secrets=True)
        assert context.keeps_secrets
        async with open_session(context) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            head, sock, unix = await backend.take()
            close(unix)
            close(sock)
            with contextlib.suppress(trio.BrokenResourceError):
                await read_all(tls)
    assert (head.mode, head.secrets) == (Mode.RELAY, None)
