"""After the handoff the gate has nothing of a connection, and its death changes nothing.

``KTLSGATE_FULL=1`` hands over 10,000 connections instead of 300.
"""

import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from helpers.backends import digest, pattern, start_backend
from helpers.clients import WAIT, connect, request, status_of
from helpers.front import FOUR_LISTENERS, LISTENERS, mode_of, start_front
from helpers.gate_process import require_view
from helpers.ktls import require_ktls

_IS_FULL = os.environ.get("KTLSGATE_FULL") == "1"
_WARM = 100
_MANY = 10_000 if _IS_FULL else 300
_DOWNLOAD = 100_000_000 if _IS_FULL else 8_000_000
# What malloc keeps grows by 2.6 MB over the first 15,000 relayed connections and
# then no more (tried to 30,000); one that stayed would be 30 kB, its SSL object.
_RSS_TOLERANCE = 4 << 20

# curl's exit codes: less came than Content-Length says; TLS ended without close_notify,
# which older curls (7.88) do not tell from the first.
_SHORT_BODY, _CUT_STREAM = {18}, {18, 56}

_CONFIG = (
    FOUR_LISTENERS
    + """
[[route]]
host = "victim.localhost"
backend = "victim"
[[route]]
backend = "app"
# In our dialect an early end waits for a word that these backends never say.
[backend.app]
address = "{backend}"
dialect = "nginx"
[backend.victim]
address = "unix:{folder}/victim.sock"
"""
)

EACH_LISTENER = pytest.mark.parametrize("listener", LISTENERS)


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with (
        _many_descriptors(),
        start_front(tmp_path_factory.mktemp("holds"), config=_CONFIG, listeners=4) as front,
    ):
        yield front


class _many_descriptors:  # noqa: N801 - a context manager
    """Let this process and the backend hold as many connections as they must."""

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = max(self.before[0], _MANY + 1_000)
        hard = max(self.before[1], wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_NOFILE, self.before)


def holdings(pid):
    """A process's resident bytes, open descriptors, and what its epolls watch."""
    folder = Path(f"/proc/{pid}")
    status = (folder / "status").read_text()
    (rss,) = (int(line.split()[1]) << 10 for line in status.splitlines() if "VmRSS" in line)
    watched = 0
    for path in (folder / "fdinfo").iterdir():
        watched += path.read_text().count("tfd:")
    return rss, len(list((folder / "fd").iterdir())), watched


def assert_held_nothing(before, after):
    assert after[1:] == before[1:], "descriptors and entries of epoll"
    assert after[0] <= before[0] + _RSS_TOLERANCE, f"{after[0] - before[0]} bytes more"


def require_mode(listener):
    """Skip what this kernel cannot do of a listener."""
    if listener in ("default", "tx"):
        require_ktls()


def hand_over(front, listener):
    """The socket of a connection that the backend holds open, once the gate has reported it.

    Only the socket: 10,000 TLS clients would not fit into a small guest.
    """
    client = front.connect_to(listener)
    target = front.target("/hold")
    client.send(request(target))
    assert front.report(target)["event"] == "handoff"
    return client.sock


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["default", "plain"])
def test_connections_that_are_held_open_cost_the_gate_nothing(front, listener):
    require_view(front.gate.pid)
    require_mode(listener)
    socks = [hand_over(front, listener) for _ in range(_WARM)]
    before = holdings(front.gate.pid)
    socks += [hand_over(front, listener) for _ in range(_MANY - _WARM)]
    assert_held_nothing(before, holdings(front.gate.pid))
    for sock in socks:
        sock.close()


@pytest.mark.slow
@EACH_LISTENER
def test_connections_that_ended_cost_the_gate_nothing(front, listener):
    require_view(front.gate.pid)

    def serve_one():
        target = front.target("/hash")
        with front.connect_to(listener) as client:
            assert status_of(client.ask(request(target))) == 200
        front.report(target)

    for _ in range(_WARM):
        serve_one()
    before = holdings(front.gate.pid)
    for _ in range(_MANY - _WARM):
        serve_one()
    assert_held_nothing(before, holdings(front.gate.pid))


class Download:
    """A curl in the middle of a large answer."""

    def __init__(self, front, backend, listener, file, *options):
        self.front, self.file = front, file
        scheme = "http" if listener == "plain" else "https"
        self.target = front.target(f"/big?n={_DOWNLOAD}&at={_DOWNLOAD // 2}")
        url = f"{scheme}://localhost:{front.port_of(listener)}{self.target}"
        command = ["curl", "-sS", "--ipv4", "--cacert", str(front.ca), "--max-time", str(WAIT)]
        self.process = subprocess.Popen(
            [*command, *options, "-o", str(file), url], stderr=subprocess.PIPE
        )
        try:
            backend.next_event("paused", self.target)
        except AssertionError:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def end(self):
        """Wait for curl: its exit code and what it said."""
        _, said = self.process.communicate(timeout=WAIT)
        return self.process.returncode, said.decode().strip()

    @property
    def is_whole(self):
        return digest(self.file.read_bytes()) == digest(pattern(_DOWNLOAD))


@EACH_LISTENER
def test_download_outlives_a_gate_that_is_killed(tmp_path, listener):
    require_mode(listener)
    with (
        start_front(tmp_path, config=_CONFIG, listeners=4) as front,
        Download(front, front.backend, listener, tmp_path / "got") as download,
    ):
        front.gate.terminate(signal.SIGKILL)
        front.backend.go()
        code, said = download.end()
    if listener == "relay":
        assert code in _CUT_STREAM, said
        assert not download.is_whole
    else:
        assert (code, said) == (0, "")
        assert download.is_whole


@EACH_LISTENER
def test_gate_that_is_told_to_end_lets_everything_finish(tmp_path, listener):
    """A download that goes on and a client that has not asked yet: both are served to the end."""
    with (
        start_front(tmp_path, config=_CONFIG, listeners=4) as front,
        Download(front, front.backend, listener, tmp_path / "got") as download,
    ):
        with front.connect_to(listener) as client:
            front.gate.process.send_signal(signal.SIGTERM)
            _wait_refused(front.port)
            assert status_of(client.ask(request(front.target("/hash")))) == 200
        front.backend.go()
        code, said = download.end()
        assert (code, said) == (0, "")
        assert download.is_whole
        assert front.gate.process.wait(WAIT) == 0
        texts = [entry.get("message", "") for entry in front.gate.messages]
    assert any(text.startswith("SIGTERM: no longer accepting") for text in texts)
    assert "ended" in texts[-3:]


def _wait_refused(port):
    while True:
        try:
            connect(port).close()
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it was in the queue of a listener that closed


def test_gate_ends_at_once_when_nothing_is_its_own(tmp_path):
    """Handed-over connections do not hold up its end, nor does its end touch them."""
    with (
        start_front(tmp_path, config=_CONFIG, listeners=4) as front,
        Download(front, front.backend, "plain", tmp_path / "got") as download,
    ):
        assert front.report(download.target)["event"] == "handoff"
        assert front.gate.terminate() == 0
        front.backend.go()
        assert download.end() == (0, "")
    assert download.is_whole


@EACH_LISTENER
def test_client_of_a_killed_backend_sees_a_cut(front, listener, tmp_path):
    """Never a whole answer: curl knows from Content-Length, and from TLS where nobody ended it."""
    require_mode(listener)
    host = ("-H", "Host: victim.localhost")
    with (
        start_backend(front.folder / "victim.sock") as backend,
        Download(front, backend, listener, tmp_path / "got", *host) as download,
    ):
        backend.kill()
        code, said = download.end()
    mode = mode_of(front.report(download.target))
    # Where the gate does TLS it ends the stream, for who cannot say what its end means.
    assert code in (_SHORT_BODY if mode in ("plain", "relay") else _CUT_STREAM), said
    assert not download.is_whole
