"""How much goes into the kernel, decided by a table of cases."""

import errno
import struct

import pytest
from helpers.sessions import client_context, in_fiber, server_context, stream, tcp_pair

from ktlsgate.config import Offload
from ktlsgate.gate.offload import offload
from ktlsgate.kernel.ktls import SOL_TLS, TLS_RX, TLS_TX
from ktlsgate.kernel.probe import OffloadTable
from ktlsgate.kernel.trials import DONE, Outcome
from ktlsgate.wire.ciphers import SUITES, KernelCipher, Version
from ktlsgate.wire.handoff import TlsFacts
from ktlsgate.wire.handshake import Established

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
FACTS = TlsFacts(protocol="TLSv1.3", cipher=SUITE.name)


class FakeKernel:
    """A socket whose kernel takes keys, or refuses them with an errno."""

    def __init__(self, tx=0, rx=0, forgets=False):
        self.refusals = {TLS_TX: tx, TLS_RX: rx}
        self.forgets = forgets
        self.installed = []

    def setsockopt(self, level, name, value):
        assert level == SOL_TLS
        if self.refusals[name]:
            raise OSError(self.refusals[name], "no")
        self.installed.append(name)

    def getsockopt(self, level, name, size):
        assert (level, size) == (SOL_TLS, 4)  # version and cipher; never the key
        if name in self.installed and not self.forgets:
            return struct.pack("HH", Version.TLS13, KernelCipher.AES_GCM_128)
        raise OSError(errno.EBUSY, "no")


class FakeHandshake:
    """An established handshake; remembers what became of it."""

    def __init__(self, *, has_pending_data=False):
        self.has_pending_data = has_pending_data
        self.calls = []

    def derive_keys(self, suite):
        self.calls.append("derive")
        return FakeInfo(), FakeInfo()

    def forget(self):
        self.calls.append("forget")

    def into_record_layer(self):
        self.calls.append("record layer")
        return "records"


class FakeInfo:
    def pack(self):
        return b"keys"


def table(offload_):
    """A kernel that does no more than so much for the suite."""
    cells = OffloadTable.all().cells
    no = Outcome(ok=False, reason="no")
    import dataclasses

    tx = no if offload_ is Offload.NONE else DONE
    rx = DONE if offload_ is Offload.BOTH else no
    return OffloadTable(
        ulp=DONE, cells=tuple(dataclasses.replace(cell, tx=tx, rx=rx) for cell in cells)
    )


def decide(
    kernel=None,
    handshake=None,
    *,
    able=Offload.BOTH,
    most=Offload.BOTH,
    suite=SUITE,
    ulp_reason="",
    has_mfl=False,
):
    established = Established(facts=FACTS, suite=suite, has_max_fragment_length=has_mfl)
    return offload(
        kernel or FakeKernel(), handshake or FakeHandshake(), established,
        table=table(able), most=most, ulp_reason=ulp_reason,
    )  # fmt: skip


REFUSALS = {
    "policy": {"most": Offload.NONE},
    "cipher": {"suite": None},
    "max_fragment_length": {"has_mfl": True},
    "no_ulp": {"ulp_reason": "the kernel has none"},
    "kernel": {"able": Offload.NONE},
    "pending_data": {"handshake": FakeHandshake(has_pending_data=True)},
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_what_the_kernel_cannot_or_may_not_hold_stays_with_openssl(reason):
    kernel = FakeKernel()
    handshake = REFUSALS[reason].get("handshake") or FakeHandshake()
    decided = decide(kernel, **{"handshake": handshake, **REFUSALS[reason]})
    assert (decided.offload, decided.reason) == (Offload.NONE, reason)
    assert decided.detail == ("the kernel has none" if reason == "no_ulp" else "")
    assert decided.records == "records"
    assert kernel.installed == []
    assert handshake.calls == ["record layer"]


def test_the_first_reason_is_the_one_reported():
    everything = {key: value for case in REFUSALS.values() for key, value in case.items()}
    assert decide(**everything).reason == "policy"


def test_with_both_keys_in_the_kernel_openssl_is_forgotten():
    kernel, handshake = FakeKernel(), FakeHandshake()
    decided = decide(kernel, handshake)
    assert (decided.offload, decided.reason, decided.records) == (Offload.BOTH, "", None)
    assert kernel.installed == [TLS_TX, TLS_RX]
    assert handshake.calls == ["derive", "forget"]


def test_a_refused_sending_key_leaves_all_to_openssl():
    kernel, handshake = FakeKernel(tx=errno.EINVAL), FakeHandshake()
    decided = decide(kernel, handshake)
    assert (decided.offload, decided.reason) == (Offload.NONE, "key_refused")
    assert decided.detail == (
        "cannot install the sending key: "
        "the kernel does not know this cipher in this version (EINVAL)"
    )
    assert kernel.installed == []
    assert handshake.calls == ["derive", "record layer"]


def test_i4_a_refused_receiving_key_leaves_only_receiving_to_openssl():
    kernel, handshake = FakeKernel(rx=errno.ENOENT), FakeHandshake()
    decided = decide(kernel, handshake)
    assert (decided.offload, decided.reason) == (Offload.TX, "key_refused")
    assert decided.detail.startswith("cannot install the receiving key: ")
    assert decided.records == "records"
    assert kernel.installed == [TLS_TX]


@pytest.mark.parametrize(
    ("able", "most"),
    [(Offload.TX, Offload.BOTH), (Offload.BOTH, Offload.TX), (Offload.TX, Offload.TX)],
)
def test_tx_alone_when_kernel_or_operator_say_so(able, most):
    kernel = FakeKernel()
    decided = decide(kernel, able=able, most=most)
    assert (decided.offload, decided.reason) == (Offload.TX, "tx_only")
    assert kernel.installed == [TLS_TX]


def test_a_kernel_that_takes_a_key_and_has_none_is_a_crash():
    with pytest.raises(AssertionError) as caught:
        decide(FakeKernel(forgets=True))
    assert str(caught.value) == "the kernel took the sending key and does not have it"


@pytest.mark.ktls
@pytest.mark.parametrize("most", [Offload.BOTH, Offload.TX], ids=lambda most: most.value)
async def test_on_a_real_kernel_what_is_offloaded_still_talks_to_the_client(most):
    import trio
    from helpers.ktls import TLS13, kernel_table, require_ktls

    from ktlsgate.gate.client import KernelClient, RelayedClient
    from ktlsgate.gate.handshake import perform_handshake
    from ktlsgate.kernel.ktls import attach_ulp, has_rx, has_tx
    from ktlsgate.wire.handshake import Handshake

    require_ktls(TLS13, most)
    client, server = tcp_pair()
    attach_ulp(server)
    tls = trio.SSLStream(stream(client), client_context(), server_hostname="localhost")
    handshake = Handshake(server_context(ciphersuites=TLS13.name))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.do_handshake)
        await in_fiber(perform_handshake, server, handshake)
    decided = offload(server, handshake, handshake.established(), table=kernel_table(), most=most)
    assert decided.offload is most
    assert (has_tx(server), has_rx(server)) == (True, most is Offload.BOTH)
    if decided.records is None:
        gate = KernelClient(server, is_tls=True)
    else:
        gate = RelayedClient(server, decided.records, kernel_sends=True)
    await tls.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    from ktlsgate.wire.http_head import HeadLimits

    head, _ = await in_fiber(gate.read_head, HeadLimits())
    assert head.target == b"/"
    await in_fiber(gate.send_all, b"answer")
    assert await tls.receive_some(100) == b"answer"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_fiber, gate.say_goodbye)
        assert await tls.receive_some(1) == b""  # close_notify
        await tls.aclose()
    trio.lowlevel.notify_closing(server)
    server.close()
