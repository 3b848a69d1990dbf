"""The table that strace writes, and what it comes to for each connection."""

import dataclasses
import stat
import subprocess
import sys
import textwrap

import pytest
from bench.loads import parse_slice
from bench.machine import BenchError
from bench.peers import PEERS
from bench.servers import Server
from bench.syscalls import Calls, count_calls, parse_calls

TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 28.74    0.013283           4      2700       900 recvfrom
 12.10    0.005593           2      1800           setsockopt
  0.10    0.000010           0        30           clock_gettime
  0.01    0.000005           0         7         7 getpid
  0.00    0.000000           0        10           accept4
------ ----------- ----------- --------- --------- ----------------
100.00    0.046212           3      4547       907 total
"""


def test_calls_are_read_with_those_that_failed():
    assert parse_calls(TABLE) == {"recvfrom": 2700, "setsockopt": 1800, "accept4": 10}


def test_an_empty_table_has_none():
    assert parse_calls("") == {}


def test_calls_for_each_connection_come_the_most_frequent_first():
    calls = Calls(server="gate", connections=10, calls={"accept4": 10, "recvfrom": 90})
    assert list(calls.each.items()) == [("recvfrom", 9.0), ("accept4", 1.0)]
    assert calls.total == pytest.approx(10.0)


# --- whether strace may look ------------------------------------------------------------------

FORBIDDEN = (
    "system calls were not counted: ptrace is forbidden here (strace needs CAP_SYS_PTRACE, or the"
    " servers' user and kernel.yama.ptrace_scope = 0)"
)
WARNING = "strace: test_ptrace_get_syscall_info: PTRACE_TRACEME: Operation not permitted"
YAMA = (
    "strace: Could not attach to process. If your uid matches the uid of the target process, check"
    " the setting of /proc/sys/kernel/yama/ptrace_scope, or try again as the root user. For more"
    " details, see /etc/sysctl.d/10-ptrace.conf: Operation not permitted"
)
REFUSED = "strace: attach: ptrace(PTRACE_SEIZE, 7): Operation not permitted"
GONE = "strace: attach: ptrace(PTRACE_SEIZE, 7): No such process"
ATTACHED = "strace: Process 7 attached with 3 threads"


class _Connecting:
    """A generator all of whose connections succeed."""

    def make(self, server, count, seconds):
        slice_ = parse_slice("", server_cpu=0, backend_cpu=0)
        return dataclasses.replace(slice_, operations=count, errors=0)


@pytest.fixture
def strace(tmp_path, monkeypatch):
    """Make a strace that says something, and a server with one child to try it on."""

    def make(*lines, stays=True):
        program = tmp_path / "strace"
        text = f"""\
            #!{sys.executable}
            import pathlib, signal, sys
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text({TABLE!r})
            for line in {lines!r}:
                print(line, file=sys.stderr, flush=True)
            {"signal.pause()" if stays else ""}
            """
        program.write_text(textwrap.dedent(text))
        program.chmod(stat.S_IRWXU)
        with subprocess.Popen(
            ["/bin/sh", "-c", "exec 3<&0; /bin/cat <&3 & echo; wait"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as shell:
            shell.stdout.readline()
            server = Server(peer=PEERS["gate"], key="ec", port=1, pid=shell.pid)
            assert len(server.pids) == 2
            try:
                return count_calls([server], 10, _Connecting(), lambda _: None)
            finally:
                shell.stdin.close()

    monkeypatch.setenv("PATH", str(tmp_path))
    return make


@pytest.mark.parametrize(
    ("lines", "stays", "message"),
    [
        ([REFUSED], False, FORBIDDEN),
        ([WARNING, YAMA, REFUSED, REFUSED], False, FORBIDDEN),
        ([ATTACHED, REFUSED], True, FORBIDDEN),
        ([ATTACHED, GONE], True, "system calls were not counted: strace: No such process"),
        (["strace: what?"], False, "system calls were not counted: strace ended: strace: what?"),
        ([], False, "system calls were not counted: strace ended: it said nothing"),
    ],
)
def test_a_strace_that_may_not_look_says_why_nothing_was_counted(strace, lines, stays, message):
    with pytest.raises(BenchError) as caught:
        strace(*lines, stays=stays)
    assert str(caught.value) == message


def test_warnings_of_other_things_do_not_keep_strace_from_counting(strace):
    (calls,) = strace(WARNING, ATTACHED, "strace: WARNING: more", ATTACHED)
    assert calls == Calls(server="gate", connections=10, calls=parse_calls(TABLE))


def test_without_strace_nothing_is_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"^system calls were not counted: no strace \(apt-get "):
        count_calls([], 10, _Connecting(), lambda _: None)
