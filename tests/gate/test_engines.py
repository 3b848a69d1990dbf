"""Both engines end in the same two values: what was agreed on, and who does the crypto."""

import dataclasses

import pytest
import trio
from helpers.sessions import (
    NO_KTLS,
    client_context,
    identity,
    in_fiber,
    make_context,
    receive,
    stream,
)

from ktlsgate.config import Offload, Tls
from ktlsgate.gate import engines
from ktlsgate.gate.engines import shake_hands
from ktlsgate.kernel.engines import Engine
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handoff import TlsFacts
from ktlsgate.wire.handshake import Established
from ktlsgate.wire.tls_context import build_server_context


def shake(engine, server):
    """The gate's side, with what a listener's sessions share."""
    # A context that lets OpenSSL offload would do so on some of the machines that test this.
    tls = build_server_context(Tls(), identity().chain, identity().key)
    context = dataclasses.replace(make_context(), engine=engine)
    return in_fiber(shake_hands, server, tls, context, NO_KTLS.ulp_reason)


@pytest.mark.parametrize("engine", Engine)
async def test_where_nothing_is_offloaded_openssl_goes_on_with_all_of_it(pair, engine):
    """Without ULP neither engine can do more, and both relay."""
    client, server = pair
    tls = trio.SSLStream(stream(client), client_context(), server_hostname="localhost")
    found = []

    async def keep():
        found.append(await shake(engine, server))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        nursery.start_soon(keep)
    established, offloaded = found[0].established, found[0].offload(Offload.BOTH)
    assert established.facts.sni == "localhost"
    assert established.facts.protocol == "TLSv1.3"
    assert offloaded.offload is Offload.NONE
    assert offloaded.secrets is None
    await tls.send_all(b"request")
    assert offloaded.records.receive_data(await receive(server)) == b"request"
    server.send(offloaded.records.send_data(b"answer"))
    assert await tls.receive_some(100) == b"answer"


class FakeHandshake:
    """An established connection; remembers what became of it."""

    def __init__(self, *, has_pending_data=False):
        self.has_pending_data = has_pending_data
        self.calls = []

    def forget(self):
        self.calls.append("forget")

    def into_record_layer(self):
        self.calls.append("record layer")
        return "records"


def established(cipher="TLS_AES_128_GCM_SHA256", *, has_mfl=False):
    facts = TlsFacts(protocol="TLSv1.3", cipher=cipher)
    return Established(facts=facts, suite=SUITES.get(cipher), has_max_fragment_length=has_mfl)


def test_with_both_keys_in_the_kernel_openssl_is_forgotten():
    handshake = FakeHandshake()
    offloaded = engines._take_over(handshake, established(), Offload.BOTH)
    assert (offloaded.offload, offloaded.reason, offloaded.records) == (Offload.BOTH, "", None)
    assert handshake.calls == ["forget"]


def test_bytes_that_openssl_read_ahead_would_be_lost_and_are_a_crash():
    with pytest.raises(AssertionError) as caught:
        engines._take_over(FakeHandshake(has_pending_data=True), established(), Offload.BOTH)
    assert str(caught.value) == "OpenSSL read past the handshake, which it never does"


CCM = "TLS_AES_128_CCM_SHA256"
LEFT = [
    (Offload.TX, established(), "tx_only",
     "this OpenSSL gives the kernel no receiving key in TLSv1.3"),
    (Offload.NONE, established("ECDHE-RSA-AES128-SHA"), "cipher", ""),
    (Offload.NONE, established(has_mfl=True), "max_fragment_length", ""),
    (Offload.NONE, established(CCM), "openssl", f"this OpenSSL does not offload {CCM}"),
]  # fmt: skip


@pytest.mark.parametrize(("held", "agreed", "reason", "detail"), LEFT, ids=[r[2] for r in LEFT])
def test_what_openssl_kept_has_a_reason(held, agreed, reason, detail):
    handshake = FakeHandshake()
    offloaded = engines._take_over(handshake, agreed, held)
    assert (offloaded.offload, offloaded.reason, offloaded.detail) == (held, reason, detail)
    assert offloaded.records == "records"
    assert handshake.calls == ["record layer"]


async def test_openssl_cannot_wait_for_a_route(pair):
    client, server = pair
    tls = trio.SSLStream(stream(client), client_context(), server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        shaken = await shake(Engine.OPENSSL, server)
    with pytest.raises(AssertionError) as caught:
        shaken.count_records()
    assert str(caught.value) == (
        "the configuration keeps this engine from routes that ask for less"
    )
