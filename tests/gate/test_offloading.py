"""When keys move: at once where every route agrees, else behind the head, as the route says."""

import pytest
from helpers.sessions import make_backend, make_context

from ktlsgate.config import Offload, Route, RxFallback
from ktlsgate.gate.client import KernelClient, RelayedClient
from ktlsgate.gate.offload import Offloaded
from ktlsgate.gate.offloading import Offloading
from ktlsgate.wire.handoff import Mode

BOTH, TX, NONE = Offload.BOTH, Offload.TX, Offload.NONE
APP = make_backend("/nowhere")


class FakeRecords:
    """A record layer; remembers that it was dropped."""

    def __init__(self, *, has_control_records=False):
        self.has_control_records = has_control_records
        self.is_forgotten = False

    def forget(self):
        self.is_forgotten = True


class FakeEngine:
    """An engine whose kernel can do so much; a `Shaken`."""

    established = None

    def __init__(self, able=BOTH, **counted):
        self.able = able
        self.counted = FakeRecords(**counted)
        self.asked = []
        self.records = FakeRecords()

    def count_records(self):
        return self.counted

    def offload(self, most):
        self.asked.append(most)
        got = self.able.at_most(most)
        reason = {BOTH: "", TX: "tx_only", NONE: "policy" if most is NONE else "kernel"}[got]
        records = None if got is BOTH else self.records
        secrets = "secrets" if got is BOTH else None
        return Offloaded(offload=got, reason=reason, records=records, secrets=secrets)


@pytest.fixture
def sock(pair):
    return pair[1]


def begin(sock, engine, *, most=BOTH, at_once=None):
    return Offloading(sock, engine, most=most, at_once=at_once)


def route(offload):
    return Route(backend=APP, offload=offload)


HELD = {BOTH: (KernelClient, "tx+rx", Mode.BOTH), TX: (RelayedClient, "tx", Mode.TX),
        NONE: (RelayedClient, "none", Mode.RELAY)}  # fmt: skip


@pytest.mark.parametrize("bound", HELD)
def test_keys_move_at_once_where_the_bound_is_known(sock, bound):
    engine = FakeEngine()
    offloading = begin(sock, engine, at_once=bound)
    assert engine.asked == [bound]
    assert offloading.is_settled
    assert (
        type(offloading.client),
        offloading.label,
        offloading.mode_for(RxFallback.SPLIT),
    ) == HELD[bound]
    assert offloading.reason == {BOTH: "", TX: "tx_only", NONE: "policy"}[bound]


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("asked", HELD)
def test_a_route_cannot_have_what_the_kernel_holds_too_much_of(sock, held, asked):
    engine = FakeEngine()
    offloading = begin(sock, engine, at_once=held)
    assert offloading.settle(route(asked), b"") is held.is_within(asked)
    assert engine.asked == [held], "keys move once"


def test_until_the_route_is_known_openssl_reads(sock):
    engine = FakeEngine()
    offloading = begin(sock, engine)
    assert engine.asked == []
    assert not offloading.is_settled
    assert (offloading.offload, offloading.reason) == (NONE, "undecided")
    assert offloading.client.records is engine.counted


@pytest.mark.parametrize("most", HELD)
@pytest.mark.parametrize("asked", HELD)
def test_keys_move_as_far_as_listener_and_route_allow(sock, most, asked):
    engine = FakeEngine()
    offloading = begin(sock, engine, most=most)
    assert offloading.settle(route(asked), b"")
    assert engine.asked == [most.at_most(asked)]
    assert offloading.is_settled
    assert (
        type(offloading.client),
        offloading.label,
        offloading.mode_for(RxFallback.SPLIT),
    ) == HELD[most.at_most(asked)]


def test_what_was_decrypted_behind_the_head_keeps_receiving_with_openssl(sock):
    engine = FakeEngine()
    offloading = begin(sock, engine)
    assert offloading.settle(route(BOTH), b"body")
    assert (offloading.offload, offloading.reason) == (TX, "trailing_data")
    assert offloading.detail == "the request's head came in one record with what follows it"


@pytest.mark.parametrize("asked", [TX, NONE])
def test_it_is_no_reason_where_openssl_receives_anyway(sock, asked):
    offloading = begin(sock, FakeEngine())
    offloading.settle(route(asked), b"body")
    assert offloading.offload is asked
    assert offloading.reason == {TX: "tx_only", NONE: "policy"}[asked]


@pytest.mark.parametrize("asked", [BOTH, TX])
def test_i3_after_a_record_without_data_the_keys_stay(sock, asked):
    offloading = begin(sock, FakeEngine(has_control_records=True))
    offloading.settle(route(asked), b"body")
    assert (offloading.offload, offloading.reason) == (NONE, "control_record")
    assert offloading.detail == (
        "the client sent a record without data before its request was whole"
    )


def test_a_kernel_that_can_do_less_has_the_last_word(sock):
    offloading = begin(sock, FakeEngine(able=NONE))
    offloading.settle(route(BOTH), b"body")
    assert (offloading.offload, offloading.reason) == (NONE, "kernel")


def test_i5_secrets_are_given_once(sock):
    offloading = begin(sock, FakeEngine(), at_once=BOTH)
    assert offloading.release_secrets() == "secrets"
    assert offloading.release_secrets() is None


def test_forgetting_drops_whatever_openssl_still_has(sock):
    engine = FakeEngine()
    begin(sock, engine).forget()
    assert engine.counted.is_forgotten
    begin(sock, engine, at_once=TX).forget()
    assert engine.records.is_forgotten
    begin(sock, engine, at_once=BOTH).forget()  # nobody is left


@pytest.mark.parametrize(
    ("bound", "mode"), [(BOTH, Mode.BOTH), (TX, Mode.RELAY), (NONE, Mode.RELAY)]
)
def test_who_takes_one_socket_only_has_a_pair_where_the_kernel_only_sends(sock, bound, mode):
    offloading = begin(sock, FakeEngine(), at_once=bound)
    assert offloading.mode_for(RxFallback.PAIR) is mode
    offloading.forget()


# What a listener's sessions know before the head.


def bound_of(sni, *routes, listener=BOTH):
    context = make_context(listener={"offload": listener})
    return type(context).make(
        listener=context.listener, tls=None, table=context.table, limits=context.limits,
        metrics=context.metrics, report=context.report, disposal=context.disposal,
        routes=tuple(Route(hosts=(host,), path=path, offload=offload, backend=APP)
                     for host, path, offload in routes),
    ).routes.offload_of(sni)  # fmt: skip


MIXED = (("a.example", "/", TX), ("b.example", "/ws", BOTH), ("b.example", "/", NONE),
         ("*.c.example", "/", BOTH), ("d.example", "/", BOTH), ("*", "/", NONE))  # fmt: skip


@pytest.mark.parametrize(
    ("sni", "bound"),
    [
        ("a.example", TX),
        ("b.example", None),
        ("x.c.example", BOTH),
        ("d.example", BOTH),
        ("d.example.", BOTH),
        ("unknown.example", NONE),
        ("", None),
    ],
)
def test_the_name_in_the_hello_decides_where_its_routes_agree(sni, bound):
    assert bound_of(sni, *MIXED) is bound


def test_a_listener_that_allows_less_makes_routes_agree():
    assert (
        bound_of("b.example", ("b.example", "/ws", BOTH), ("b.example", "/", TX), listener=TX) is TX
    )
    assert bound_of("", *MIXED, listener=NONE) is NONE


def test_a_name_without_routes_gets_what_the_listener_allows():
    """Whatever such a client asks for is refused."""
    others = ("a.example", "/", NONE), ("b.example", "/", TX)
    assert bound_of("e.example", *others) is BOTH


def test_routes_that_ask_for_nothing_cost_nothing():
    assert bound_of("", ("*", "/x", BOTH), ("*", "/", BOTH)) is BOTH
