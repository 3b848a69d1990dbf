"""A backend at several addresses, one of which is killed; and one that restarts."""

import concurrent.futures
import signal
import threading

import pytest
from helpers.backends import start_backend
from helpers.clients import PlainClient, request, status_of
from helpers.front import start_front
from helpers.gate_process import WAIT

_REQUESTS = 120

_CONFIG = """
log_format = "json"
[[listen]]
address = "127.0.0.1:0"
tls = false
[[route]]
path = "/pair"
backend = "pair"
[[route]]
backend = "late"
[backend.pair]
address = ["unix:{folder}/one.sock", "unix:{folder}/two.sock"]
[backend.late]
address = "unix:{folder}/late.sock"
absence_timeout = 4
"""


@pytest.fixture
def front(tmp_path):
    with start_front(tmp_path, config=_CONFIG) as front:
        yield front


def ask(front, path):
    """Ask once; the status, 0 for a bare close, and the report."""
    target = front.target(path)
    with PlainClient(front.port) as client:
        try:
            answer = client.ask(request(target))
        except ConnectionResetError:
            answer = b""
    return status_of(answer) if answer else 0, front.report(target)


def test_requests_take_turns_and_miss_nobody_when_one_address_dies(front, tmp_path):
    with start_backend(tmp_path / "one.sock") as one, start_backend(tmp_path / "two.sock"):
        assert [ask(front, "/pair/hash")[0] for _ in range(4)] == [200] * 4
        dead = threading.Event()

        def ask_on(_number):
            status, report = ask(front, "/pair/hash")
            return status, report["event"], dead.is_set()

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answers = [pool.submit(ask_on, number) for number in range(_REQUESTS)]
            answers[_REQUESTS // 3].result(WAIT)
            one.process.send_signal(signal.SIGKILL)
            one.process.wait(WAIT)
            dead.set()
            answers = [answer.result(WAIT) for answer in answers]
    # Who was handed over to the one that died knows it by a cut; nobody gets a 502 or 503.
    assert {event for _, event, _ in answers} == {"handoff"}
    assert {status for status, _, is_dead in answers if not is_dead} <= {200, 0}
    assert sum(status == 0 for status, _, _ in answers) <= 1
    messages = [entry.get("message", "") for entry in front.gate.messages]
    downs = [text for text in messages if "/one.sock: down for 10 s: backend_" in text]
    assert len(downs) == 1


def test_a_backend_that_restarts_is_waited_for(front, tmp_path):
    def restart():
        with start_backend(tmp_path / "late.sock"):
            done.wait(WAIT)

    done = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, front, "/hash")
        backend = pool.submit(restart)
        status, report = waiting.result(WAIT)
        done.set()
        backend.result(WAIT)
    assert (status, report["event"]) == (200, "handoff")
