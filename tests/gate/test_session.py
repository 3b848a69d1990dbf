"""One connection's steps: every state, every end, one report each."""

import contextlib
import errno
import socket

import pytest
import trio
import trio.testing
from helpers.descriptors import no_descriptor_left
from helpers.fibers import limit_watches
from helpers.sessions import (
    REQUEST,
    OneByteSegments,
    close,
    epoll_targets,
    make_backend,
    make_context,
    open_backend,
    open_session,
    own_descriptors,
    read_all,
    reset,
    stream,
)

from ktlsgate.config import KtlsPolicy, Limits
from ktlsgate.gate.report import Event
from ktlsgate.gate.states import TRANSITIONS, State, Step, advance
from ktlsgate.wire.error_response import build_error_response
from ktlsgate.wire.handoff import FINISHED, RECEIVED, Mode

# --- the state table -------------------------------------------------------------

LEGAL = {
    (State.EXPECT_HANDSHAKE, Step.ESTABLISHED): State.EXPECT_OFFLOAD,
    (State.EXPECT_HANDSHAKE, Step.HANDSHAKE_FAILED): State.CLOSED,
    (State.EXPECT_HANDSHAKE, Step.DEADLINE_PASSED): State.CLOSED,
    (State.EXPECT_HANDSHAKE, Step.RESOURCES_EXHAUSTED): State.CLOSED,
    (State.EXPECT_OFFLOAD, Step.KEYS_INSTALLED): State.EXPECT_HEAD,
    (State.EXPECT_OFFLOAD, Step.OFFLOAD_REFUSED): State.EXPECT_HEAD,
    (State.EXPECT_OFFLOAD, Step.OFFLOAD_DEFERRED): State.EXPECT_HEAD,
    (State.EXPECT_HEAD, Step.HEAD_RECEIVED): State.EXPECT_DISPOSAL,
    (State.EXPECT_HEAD, Step.HEAD_REJECTED): State.CLOSED,
    (State.EXPECT_HEAD, Step.PEER_CLOSED): State.CLOSED,
    (State.EXPECT_HEAD, Step.DEADLINE_PASSED): State.CLOSED,
    (State.EXPECT_HEAD, Step.RESOURCES_EXHAUSTED): State.CLOSED,
    (State.EXPECT_DISPOSAL, Step.HANDOFF_ACKNOWLEDGED): State.HANDED_OFF,
    (State.EXPECT_DISPOSAL, Step.RELAY_STARTED): State.RELAYING,
    (State.EXPECT_DISPOSAL, Step.HANDOFF_FAILED): State.CLOSED,
    (State.EXPECT_DISPOSAL, Step.REJECTED): State.CLOSED,
    (State.EXPECT_DISPOSAL, Step.DEADLINE_PASSED): State.CLOSED,
    (State.EXPECT_DISPOSAL, Step.RESOURCES_EXHAUSTED): State.CLOSED,
    (State.RELAYING, Step.BOTH_SIDES_CLOSED): State.CLOSED,
}
PAIRS = [(state, step) for state in State for step in Step]


@pytest.mark.parametrize(("state", "step"), PAIRS, ids=lambda value: value.name)
def test_only_the_pairs_of_the_table_are_legal(state, step):
    if (state, step) in LEGAL:
        assert advance(state, step) is LEGAL[state, step]
        return
    with pytest.raises(AssertionError) as caught:
        advance(state, step)
    assert str(caught.value) == f"{step} is not legal in {state}"


def test_every_state_has_a_row_and_final_states_an_empty_one():
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.HANDED_OFF] == TRANSITIONS[State.CLOSED] == {}


# --- plain HTTP: the client's own socket goes -------------------------------------


def plain(backend, **changes):
    return make_context(backend.address, tls=False, **changes)


async def test_a_plain_connection_is_handed_off_with_its_head(tmp_path):
    with open_backend(tmp_path) as backend:
        context = plain(backend)
        async with open_session(context) as session:
            await session.client.send_all(REQUEST)
            head, sock, _ = await backend.take()
        assert head.mode is Mode.PLAIN
        assert head.environ["REQUEST_URI"] == "/x?y=1"
        assert head.environ["REMOTE_ADDR"] == "192.0.2.7"
        report = session.report
        assert (report.event, report.reason, report.status) == (Event.HANDOFF, "", 0)
        assert (report.id, report.method, report.target) == (1, "GET", "/x?y=1")
        assert (report.host, report.backend, report.client) == (
            "localhost", "app", "192.0.2.7:40000",
        )  # fmt: skip
        assert report.handshake_ms is None
        assert min(report.header_ms, report.handoff_ms, report.duration_ms) >= 0
        assert context.metrics.outcomes == {"handoff": 1}
        assert not context.metrics.failures
        assert sock.fileno() >= 0


@pytest.mark.parametrize("behind", [b"body", b"GET /2 HTTP/1.1\r\n\r\n", b"\x81\x85frame"])
async def test_i2_what_follows_the_head_stays_in_the_socket(tmp_path, behind):
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend)) as session:
            await session.client.send_all(REQUEST + behind)
            _, sock, _ = await backend.take()
        assert sock.recv(1000) == behind


async def test_i1_after_the_handoff_the_client_talks_to_the_backend_alone(tmp_path):
    with open_backend(tmp_path) as backend:
        before = own_descriptors()
        async with open_session(plain(backend)) as session:
            await session.client.send_all(REQUEST)
            _, sock, unix = await backend.take()
            await session.done.wait()
            # The gate has let go: nothing was shut down, and nothing is held.
            sock.send(b"answer")
            assert await session.client.receive_some(100) == b"answer"
            await session.client.send_all(b"more")
            assert sock.recv(100) == b"more"
            close(sock)
            assert await session.client.receive_some(1) == b""
        close(unix)
        assert own_descriptors() == before


async def test_handed_over_sockets_leave_no_entry_in_the_epoll_set(tmp_path):
    """A file that lives on in the backend would stay in the set after our close()."""
    with open_backend(tmp_path) as backend:
        seen = []
        for number in range(20):
            async with open_session(plain(backend), number) as session:
                # In two pieces, so that the gate waits and registers the socket.
                await session.client.send_all(REQUEST[:10])
                await trio.testing.wait_all_tasks_blocked()
                await session.client.send_all(REQUEST[10:])
                _, _, unix = await backend.take()
            close(unix)
            seen.append(len(epoll_targets()))
        # Trio's own and the backend's listener come when they are first needed.
        assert seen[-1] <= seen[0] + 2


@pytest.mark.parametrize("tls", [True, False])
async def test_a_head_in_pieces_is_read_whole(tmp_path, tls):
    with open_backend(tmp_path) as backend:
        async with open_session(make_context(backend.address, tls=tls)) as session:
            client = await session.start_tls() if tls else session.client
            for byte in REQUEST:
                await client.send_all(bytes((byte,)))
                await trio.testing.wait_all_tasks_blocked()
            head, _, unix = await backend.take()
            assert head.environ["REQUEST_URI"] == "/x?y=1"
            unix.close()
            await trio.aclose_forcefully(client)
    assert session.report.event is (Event.RELAY if tls else Event.HANDOFF)


async def test_a_handshake_in_pieces_leads_to_a_head(tmp_path):
    """Every byte is a wait of its own, in the handshake and in the head."""
    async with open_session(make_context(tmp_path / "none")) as session:
        session.client = OneByteSegments(session.client)
        client = await session.start_tls()
        await client.send_all(REQUEST)
        assert await read_all(client) == build_error_response(503)
        await client.aclose()
    assert session.report.reason == "backend_absent"


@pytest.mark.parametrize("moment", ["handshake", "head", "handoff"])
async def test_i6_a_session_that_is_cancelled_leaves_no_descriptor(tmp_path, moment):
    with open_backend(tmp_path) as backend:
        before = own_descriptors()
        async with open_session(make_context(backend.address)) as session:
            client = session.client
            if moment != "handshake":
                client = await session.start_tls()
            if moment == "handoff":
                await client.send_all(REQUEST)
            await trio.testing.wait_all_tasks_blocked()
            session.scope.cancel()
            await session.done.wait()
            await trio.aclose_forcefully(client)
            assert own_descriptors() == before
    assert (session.report.event, session.report.reason) == (Event.SHUTDOWN, "shutdown")


HEADS = [
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"nonsense\r\n\r\n", 400),
    (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
    (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
    (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
    (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
]


@pytest.mark.parametrize(("head", "status"), HEADS, ids=[f"{s}-{h[:9]!r}" for h, s in HEADS])
async def test_a_refused_head_is_answered_even_with_bytes_unread(tmp_path, head, status):
    with open_backend(tmp_path) as backend:
        context = plain(backend)
        async with open_session(context) as session:
            await session.client.send_all(head + b"x" * 100_000)
            answer = await read_all(session.client)  # a reset would raise
            await session.client.aclose()
        assert answer == build_error_response(status)
        report = session.report
        assert (report.event, report.reason, report.status) == (Event.REFUSED, "bad_head", status)
        assert report.detail
        assert context.metrics.failures == {"bad_head": 1}


async def test_a_host_without_route_is_answered_404():
    context = make_context(tls=False, hosts=("other",))
    async with open_session(context) as session:
        await session.client.send_all(REQUEST)
        assert await read_all(session.client) == build_error_response(404)
        await session.client.aclose()
    report = session.report
    assert (report.event, report.reason, report.status) == (Event.REFUSED, "no_route", 404)
    assert report.detail == "no route for this host and path"


async def test_the_answer_to_a_head_request_has_no_body(tmp_path):
    async with open_session(make_context(tmp_path / "none", tls=False)) as session:
        await session.client.send_all(REQUEST.replace(b"GET", b"HEAD"))
        answer = await read_all(session.client)
        await session.client.aclose()
    assert answer == build_error_response(503, is_head_request=True)


# --- clients that leave -----------------------------------------------------------

LEAVINGS = {
    "nothing sent": (b"", "closed", "expected a request, got end of file"),
    "half a head": (b"GET / HT", "cut", "expected the rest of the head, got end of file"),
}


@pytest.mark.parametrize("case", LEAVINGS)
async def test_a_client_that_closes_before_its_head_is_reported(case):
    data, reason, detail = LEAVINGS[case]
    async with open_session(make_context(tls=False)) as session:
        await session.client.send_all(data)
        await session.client.send_eof()
    report = session.report
    assert (report.event, report.reason) == (Event.CLIENT_GONE, reason)
    assert (report.detail, report.status) == (detail, 0)


@pytest.mark.parametrize("data", [b"", b"GET / HT"])
@pytest.mark.parametrize("tls", [True, False])
async def test_a_client_that_resets_is_reported(data, tls):
    async with open_session(make_context(tls=tls)) as session:
        await session.client.send_all(b"\x16\x03" if tls and data else data)
        await trio.testing.wait_all_tasks_blocked()
        reset(session.client.socket)
    report = session.report
    assert report.event is Event.CLIENT_GONE
    assert report.reason == ("client_gone" if tls else "reset")


# --- TLS before the head ----------------------------------------------------------


async def test_plain_http_on_a_tls_listener_is_answered_400_in_plain():
    async with open_session(make_context()) as session:
        await session.client.send_all(REQUEST)
        answer = await read_all(session.client)
        await session.client.aclose()
    assert answer == (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"Connection: close\r\n"
        b"Content-Length: 50\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Cache-Control: no-store\r\n"
        b"\r\n"
        b"The request is malformed.\nThis port speaks HTTPS.\n"
    )
    report = session.report
    assert (report.event, report.reason) == (Event.HANDSHAKE_FAILED, "plain_http")
    assert report.status == 400


async def test_garbage_is_closed_at_once(autojump_clock):
    began = trio.current_time()
    async with open_session(make_context()) as session:
        await session.client.send_all(b"\x00garbage")
        with contextlib.suppress(trio.BrokenResourceError):
            assert await read_all(session.client) == b""
        await session.done.wait()
        assert trio.current_time() == began
    report = session.report
    assert (report.event, report.reason) == (Event.HANDSHAKE_FAILED, "not_tls")
    assert report.status == 0


async def test_a_failed_handshake_is_told_by_an_alert():
    async with open_session(make_context()) as session:
        # A record of TLS 1.0's looks with a hello that no version of ours understands.
        await session.client.send_all(b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
        answer = await read_all(session.client)
        await session.client.aclose()
    assert (answer[0], answer[5]) == (21, 2)  # an alert, and fatal
    report = session.report
    assert (report.event, report.reason) == (Event.HANDSHAKE_FAILED, "protocol_error")


@pytest.mark.parametrize("tls", [True, False])
async def test_every_stage_that_takes_too_long_is_reported(tls, autojump_clock):
    """A client that says nothing: the handshake, or the head, times out."""
    limits = Limits(handshake_timeout=3, header_timeout=4)
    async with open_session(make_context(tls=tls, limits=limits)) as session:
        began = trio.current_time()
        answer = await read_all(session.client)
        await session.client.aclose()
        assert trio.current_time() - began == pytest.approx(3 if tls else 4)
    report = session.report
    assert report.event is Event.TIMEOUT
    if tls:
        assert (report.reason, report.status, answer) == ("handshake_timeout", 0, b"")
        assert report.detail == "the handshake took too long"
    else:
        assert (report.reason, report.status) == ("header_timeout", 408)
        assert answer == build_error_response(408)
        assert report.detail == "the request head took too long"


async def test_a_slow_loris_does_not_move_the_deadline(autojump_clock):
    async with open_session(make_context(tls=False, limits=Limits(header_timeout=10))) as session:
        began = trio.current_time()

        async def drip():
            for byte in b"GET / HTTP/1.1\r\nHost: " + b"a" * 1000:
                await session.client.send_all(bytes((byte,)))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            answer = await read_all(session.client)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began == pytest.approx(10)
        await session.client.aclose()
    assert answer == build_error_response(408)


async def test_a_head_that_takes_too_long_under_tls_is_answered_408(autojump_clock):
    async with open_session(make_context(limits=Limits(header_timeout=4))) as session:
        tls = await session.start_tls()
        await tls.send_all(b"GET / ")
        assert await read_all(tls) == build_error_response(408)
        await tls.aclose()
    assert (session.report.reason, session.report.status) == ("header_timeout", 408)


# --- answers -----------------------------------------------------------------------


async def test_no_deadline_of_the_steps_reaches_an_answer(autojump_clock):
    """It passes while the client may still read what it was answered."""
    async with open_session(make_context(tls=False, limits=Limits(header_timeout=4))) as session:
        began = trio.current_time()
        await trio.sleep(3.5)
        await session.client.send_all(b"nonsense\r\n\r\n")
        assert await read_all(session.client) == build_error_response(400)
        await session.done.wait()
        assert trio.current_time() - began == pytest.approx(4.5)
        await session.client.aclose()
    assert (session.report.event, session.report.reason) == (Event.REFUSED, "bad_head")
    assert session.report.status == 400


async def test_i6_a_session_cancelled_while_it_answers_ends_at_once(autojump_clock):
    before = own_descriptors()
    async with open_session(make_context(tls=False)) as session:
        await session.client.send_all(b"nonsense\r\n\r\n")
        assert await read_all(session.client) == build_error_response(400)
        assert not session.done.is_set()  # it waits for the client's end
        began = trio.current_time()
        session.scope.cancel()
        await session.done.wait()
        assert trio.current_time() == began
        await session.client.aclose()
    assert (session.report.event, session.report.reason) == (Event.SHUTDOWN, "shutdown")
    assert own_descriptors() == before


# --- backends ----------------------------------------------------------------------


async def test_an_absent_backend_is_answered_503_through_our_own_socket(tmp_path):
    async with open_session(make_context(tmp_path / "none", tls=False)) as session:
        await session.client.send_all(REQUEST)
        assert await read_all(session.client) == build_error_response(503)
        await session.client.aclose()
    report = session.report
    assert (report.event, report.reason) == (Event.BACKEND_FAILED, "backend_absent")
    assert report.detail == f"backend app at {tmp_path}/none: no socket file"
    assert (report.status, report.backend) == (503, "app")


@pytest.mark.parametrize("kept", [0, 4])
async def test_a_backend_that_never_reads_costs_503_and_gets_a_dead_socket(
    tmp_path, autojump_clock, kept
):
    """I1: who answers after the deadline makes the descriptor in flight useless."""
    with open_backend(tmp_path) as backend:
        made = make_backend(backend.address, kept_connections=kept)
        context = make_context(made, tls=False, limits=Limits(handoff_timeout=5))
        async with open_session(context) as session:
            began = trio.current_time()
            await session.client.send_all(REQUEST)
            assert await read_all(session.client) == build_error_response(503)
            assert trio.current_time() - began == pytest.approx(5)
            await session.client.aclose()
        report = session.report
        assert (report.event, report.reason) == (Event.BACKEND_FAILED, "handoff_timeout")
        who = f"backend app at {backend.address}" if kept else "the backend"
        assert (report.status, report.detail) == (503, f"{who} did not take the connection")
        _, sock, _ = await backend.take()
        with pytest.raises(BrokenPipeError):
            sock.send(b"too late")


async def test_i6_a_session_cancelled_while_its_handoff_is_in_flight_gives_the_client_up(tmp_path):
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend)) as session:
            await session.client.send_all(REQUEST)
            unix = await backend.accept()
            await trio.testing.wait_all_tasks_blocked()
            session.scope.cancel()
            assert await read_all(session.client) == b""
        assert (session.report.event, session.report.reason) == (Event.SHUTDOWN, "shutdown")
        _, sock, _ = await backend.take(unix)
        with pytest.raises(BrokenPipeError):
            sock.send(b"nobody is there")


async def test_i6_a_session_cancelled_while_it_answers_for_a_backend_gives_the_client_up(
    tmp_path, autojump_clock
):
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend, limits=Limits(handoff_timeout=5))) as session:
            await session.client.send_all(REQUEST)
            unix = await backend.accept()
            assert await read_all(session.client) == build_error_response(503)
            assert not session.done.is_set()
            session.scope.cancel()
            await session.done.wait()
            _, sock, _ = await backend.take(unix)
            assert sock.recv(1) == b""
            await session.client.aclose()
    assert (session.report.event, session.report.reason) == (Event.SHUTDOWN, "shutdown")


@pytest.mark.parametrize("tls", [True, False])
async def test_i6_a_session_cancelled_before_its_head_closes_and_reports(tls):
    before = own_descriptors()
    async with open_session(make_context(tls=tls)) as session:
        await trio.testing.wait_all_tasks_blocked()
        session.scope.cancel()
        assert await read_all(session.client) == b""
    assert (session.report.event, session.report.reason) == (Event.SHUTDOWN, "shutdown")
    assert own_descriptors() == before


async def test_without_a_free_descriptor_the_client_is_answered_503(tmp_path):
    with open_backend(tmp_path) as backend:
        for tls in (False, True):
            async with open_session(make_context(backend.address, tls=tls)) as session:
                client = await session.start_tls() if tls else session.client
                with no_descriptor_left():
                    await client.send_all(REQUEST)
                    assert await read_all(client) == build_error_response(503)
                    await client.aclose()
            report = session.report
            assert (report.event, report.reason) == (Event.BACKEND_FAILED, "no_descriptors")
            assert report.detail.endswith("got: Too many open files")


NO_WATCHES = (
    "expected an epoll set to take a descriptor, got: No space left on device; "
    "raise fs.epoll.max_user_watches"
)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_client_that_cannot_be_watched_is_told_if_it_can_be(tls, monkeypatch):
    """A limit of this machine's, and not the client's fault."""
    limit_watches(monkeypatch, 0)
    context = make_context(tls=tls)
    async with open_session(context) as session:
        answer = await read_all(session.client)
        await session.client.aclose()
    report = session.report
    assert answer == (b"" if tls else build_error_response(503))
    assert report.status == (0 if tls else 503)
    assert report.event is (Event.HANDSHAKE_FAILED if tls else Event.REFUSED)
    assert (report.reason, report.detail) == ("no_watches", NO_WATCHES)
    assert context.metrics.failures == {"no_watches": 1}


async def test_a_backend_that_cannot_be_watched_costs_503_and_gets_a_dead_socket(
    tmp_path, monkeypatch
):
    """I1: it may still take the descriptor out of its queue."""
    limit_watches(monkeypatch, 1)  # the client's
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend)) as session:
            await session.client.send_all(REQUEST)
            assert await read_all(session.client) == build_error_response(503)
            await session.client.aclose()
        report = session.report
        assert (report.event, report.status) == (Event.BACKEND_FAILED, 503)
        assert (report.reason, report.detail) == ("no_watches", NO_WATCHES)
        _, sock, _ = await backend.take()
        with pytest.raises(BrokenPipeError):
            sock.send(b"too late")


@pytest.mark.parametrize("room", [2, 3])
async def test_a_relay_that_cannot_be_watched_is_a_cut_with_its_reason(tmp_path, room, monkeypatch):
    limit_watches(monkeypatch, room)  # the client in the handshake, the backend in the handoff
    with open_backend(tmp_path) as backend:
        before = own_descriptors()
        async with open_session(make_context(backend.address)) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            unix = await backend.accept()
            await trio.testing.wait_all_tasks_blocked()
            _, sock, _ = await backend.take(unix)
            unix.send(RECEIVED)
            assert await stream(sock).receive_some(1) == b""
            assert unix.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
            with pytest.raises(trio.BrokenResourceError):
                await tls.receive_some(1)
            await trio.aclose_forcefully(tls)
        close(unix)
        close(sock)
        assert own_descriptors() == before
    report = session.report
    assert (report.event, report.status) == (Event.RELAY, 0)
    assert (report.reason, report.detail) == ("no_watches", NO_WATCHES)


async def test_a_backend_that_dies_with_the_head_unread_is_answered_502(tmp_path):
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend)) as session:
            await session.client.send_all(REQUEST)
            unix = await backend.accept()
            unix.close()
            assert await read_all(session.client) == build_error_response(502)
            await session.client.aclose()
        report = session.report
        assert (report.event, report.reason) == (Event.BACKEND_FAILED, "backend_died")
        assert (report.status, report.detail) == (
            502, "backend app went away: Connection reset by peer",
        )  # fmt: skip


# --- TLS and relays -----------------------------------------------------------------


async def test_a_tls_connection_without_ktls_is_relayed(tmp_path):
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address)
        async with open_session(context) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST + b"body")
            head, sock, unix = await backend.take()
            unix.send(RECEIVED)
            data = stream(sock)
            assert await data.receive_some(100) == b"body"
            await data.send_all(b"answer")
            unix.send(FINISHED)
            await data.send_eof()
            assert await read_all(tls) == b"answer"
            await tls.aclose()
            assert await read_all(data) == b""
        assert head.mode is Mode.RELAY
        assert head.environ["SSL_PROTOCOL"] == "TLSv1.3"
        report = session.report
        assert (report.event, report.fallback, report.reason) == (Event.RELAY, "no_ulp", "")
        assert report.fallback_detail == "there is none in this test"
        assert (report.ktls, report.tls, report.sni) == ("none", "TLSv1.3", "localhost")
        assert (report.bytes_in, report.bytes_out) == (4, 6)
        assert context.metrics.relays == {"no_ulp": 1}
        assert context.metrics.handoffs == {("TLSv1.3", report.cipher, "none"): 1}


async def test_required_ktls_that_is_not_there_is_answered_503(tmp_path):
    listener = {"ktls": KtlsPolicy.REQUIRE}
    async with open_session(make_context(listener=listener)) as session:
        tls = await session.start_tls()
        await tls.send_all(REQUEST)
        assert await read_all(tls) == build_error_response(503)
        await tls.aclose()
    report = session.report
    assert (report.event, report.reason) == (Event.REFUSED, "ktls_required")
    assert (report.status, report.detail) == (503, "there is none in this test")


async def test_a_bad_record_behind_the_head_does_not_crash_the_answer(tmp_path):
    """OpenSSL refuses to encrypt after it saw one: the client gets its alert, no answer."""
    async with open_session(make_context(tmp_path / "none")) as session:
        tls = await session.start_tls()
        # Held back, so that both records come in one read.
        session.client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await tls.send_all(REQUEST)
        await session.client.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        session.client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        await session.done.wait()
    report = session.report
    assert (report.event, report.reason) == (Event.BACKEND_FAILED, "backend_absent")


async def test_a_relay_that_the_gate_cancels_is_cut_for_both(tmp_path):
    with open_backend(tmp_path) as backend:
        async with open_session(make_context(backend.address)) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            _, sock, unix = await backend.take()
            unix.send(RECEIVED)
            await trio.testing.wait_all_tasks_blocked()
            session.scope.cancel()
            with pytest.raises(trio.BrokenResourceError):
                await tls.receive_some(1)
            await session.done.wait()
            assert unix.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            assert sock.recv(1) == b""
        assert session.report.event is Event.SHUTDOWN


# --- the crash barrier ----------------------------------------------------------------


class BrokenTable:
    """A table with a bug in it."""

    ulp_reason = ""

    def supports(self, suite):
        raise ZeroDivisionError("a bug")


async def test_a_crash_ends_one_connection_with_one_report_and_no_other(tmp_path):
    context = make_context(table=BrokenTable(), listener={"ktls": KtlsPolicy.PREFER})
    with open_backend(tmp_path) as backend:
        async with open_session(plain(backend)) as other:
            async with open_session(context) as session:
                await _handshake_until_closed(session)
            report = session.report
            assert (report.event, report.reason) == (Event.CRASHED, "crashed")
            assert report.traceback.startswith("Traceback (most recent call last):")
            assert context.metrics.outcomes == {"crashed": 1}
            await other.client.send_all(REQUEST)
            await backend.take()
        assert other.report.event is Event.HANDOFF


async def _handshake_until_closed(session):
    with contextlib.suppress(trio.BrokenResourceError):
        tls = await session.start_tls()
        await tls.receive_some(1)


async def test_a_crash_inside_a_relay_is_one_report(tmp_path):
    with open_backend(tmp_path) as backend:
        context = make_context(backend.address, limits=Limits(relay_idle_timeout="a bug"))
        async with open_session(context) as session:
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            await backend.take()
            with contextlib.suppress(trio.BrokenResourceError):
                await tls.receive_some(1)
        report = session.report
        assert (report.event, report.reason) == (Event.CRASHED, "crashed")
        assert "TypeError" in report.traceback


async def test_a_crash_in_the_moment_of_cancellation_is_reported_and_does_not_spread(tmp_path):
    """Nothing leaves the barrier."""
    with open_backend(tmp_path) as backend:
        scopes = []

        class Limit:
            def __radd__(self, _):
                scopes[0].cancel()
                raise ZeroDivisionError("a bug")

        context = make_context(backend.address, limits=Limits(relay_idle_timeout=Limit()))
        async with open_session(context) as session:
            scopes.append(session.scope)
            tls = await session.start_tls()
            await tls.send_all(REQUEST)
            await backend.take()
            with contextlib.suppress(trio.BrokenResourceError):
                await tls.receive_some(1)
        report = session.report
        assert (report.event, report.reason) == (Event.CRASHED, "crashed")
        assert "ZeroDivisionError: a bug" in report.traceback
