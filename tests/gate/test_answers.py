"""What the gate says to clients itself."""

import pytest
import trio
from helpers.sessions import close, in_fiber, read_all, relayed_pair, stream, tcp_pair

from ktlsgate.gate.answers import SHORTAGES, TIMEOUTS, answer
from ktlsgate.gate.client import KernelClient
from ktlsgate.gate.states import TRANSITIONS, Step
from ktlsgate.wire.error_response import build_error_response


def test_every_state_that_can_time_out_before_a_handoff_has_its_words():
    waiting = {state for state, steps in TRANSITIONS.items() if Step.DEADLINE_PASSED in steps}
    assert set(TIMEOUTS) == waiting


def test_every_state_that_can_run_short_has_its_event():
    waiting = {state for state, steps in TRANSITIONS.items() if Step.RESOURCES_EXHAUSTED in steps}
    assert set(SHORTAGES) == waiting == set(TIMEOUTS)


@pytest.mark.parametrize("is_head_request", [False, True])
async def test_an_answer_is_the_whole_response_and_then_the_end(pair, is_head_request):
    client, server = pair
    async with trio.open_nursery() as nursery:

        async def say():
            plain = KernelClient(server, is_tls=False)
            await in_fiber(
                answer, plain, 404, is_head_request=is_head_request, detail="no such place"
            )

        nursery.start_soon(say)
        ours = stream(client)
        wanted = build_error_response(404, is_head_request=is_head_request, detail="no such place")
        assert await read_all(ours) == wanted
        await ours.aclose()


async def test_an_answer_under_tls_ends_with_close_notify():
    relayed, tls = await relayed_pair()
    async with trio.open_nursery() as nursery:

        async def say():
            await in_fiber(answer, relayed, 503, is_head_request=False, detail="")

        nursery.start_soon(say)
        assert await read_all(tls) == build_error_response(503)
        await tls.aclose()
    close(relayed.sock)


async def test_a_client_that_does_not_read_is_given_up(autojump_clock):
    client, server = tcp_pair(small=True)
    while True:
        try:
            server.send(bytes(65_536))
        except BlockingIOError:
            break
    began = trio.current_time()
    await in_fiber(
        answer, KernelClient(server, is_tls=False), 503, is_head_request=False, detail=""
    )
    assert trio.current_time() - began == 5
    client.close()
    close(server)


async def test_a_client_that_is_gone_is_no_error(pair):
    client, server = pair
    client.close()
    server.setblocking(True)
    server.recv(1)
    server.setblocking(False)
    for _ in range(2):
        await in_fiber(
            answer, KernelClient(server, is_tls=False), 503, is_head_request=False, detail=""
        )
