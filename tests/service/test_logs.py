"""One line for each connection and message, whatever peers send and whatever the disk does."""

import json
import logging
import os
import re
import stat
from pathlib import Path

import pytest
from helpers.properties import given, st

from ktlsgate import config
from ktlsgate.errors import ConfigError
from ktlsgate.gate.report import ConnectionReport, Event
from ktlsgate.service.logs import JsonFormatter, TextFormatter, open_logs

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"

HANDOFF = ConnectionReport(
    id=7,
    listener=":8443",
    client="192.0.2.1:5555",
    event=Event.HANDOFF,
    tls="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    sni="a.example",
    alpn="http/1.1",
    is_resumed=True,
    ktls="tx+rx",
    backend="app",
    method="GET",
    host="a.example",
    target="/x?y=1",
    handshake_ms=1.23456,
    header_ms=0.0,
    handoff_ms=0.5,
    duration_ms=2.0,
)


@pytest.fixture
def log_to(tmp_path):
    """Open a log on a file; returns the log and a function that reads its lines."""
    opened = []

    def open_on(log_format, level="info", file=None):
        file = file or tmp_path / "log"
        settings = config.Logging(level=level, format=log_format, file=str(file))
        opened.append(open_logs(settings))
        return opened[-1], lambda: file.read_text().splitlines()

    yield open_on
    for log in opened:
        log.close()


def record_of(report):
    record = logging.makeLogRecord({"created": 1795176000.1239})
    record.report = report
    return record


def refused(**fields):
    return ConnectionReport(id=1, listener=":1", client="c:1", event=Event.REFUSED, **fields)


# --- JSON


def test_json_line_has_every_field_under_its_name():
    assert json.loads(JsonFormatter().format(record_of(HANDOFF))) == {
        "time": "2026-11-20T12:00:00.123Z",
        "event": "handoff",
        "client": "192.0.2.1:5555",
        "listener": ":8443",
        "sni": "a.example",
        "tls": "TLSv1.3",
        "cipher": "TLS_AES_128_GCM_SHA256",
        "resumed": True,
        "alpn": "http/1.1",
        "ktls": "tx+rx",
        "backend": "app",
        "method": "GET",
        "host": "a.example",
        "target": "/x?y=1",
        "handshake_ms": 1.235,
        "header_ms": 0.0,
        "handoff_ms": 0.5,
        "duration_ms": 2.0,
        "id": 7,
    }


def test_json_line_leaves_out_what_the_connection_did_not_reach():
    report = refused(status=431, reason="head_too_long", detail="more", bytes_in=5, bytes_out=6)
    assert json.loads(JsonFormatter().format(record_of(report))) == {
        "time": "2026-11-20T12:00:00.123Z",
        "event": "refused",
        "client": "c:1",
        "listener": ":1",
        "status": 431,
        "duration_ms": 0.0,
        "bytes_in": 5,
        "bytes_out": 6,
        "reason": "head_too_long",
        "detail": "more",
        "id": 1,
    }


def test_json_line_of_a_crash_has_the_traceback(log_to):
    log, lines = log_to(config.LogFormat.JSON)
    log.write_report(
        ConnectionReport(id=1, listener=":1", client="c:1", traceback="Traceback:\n  x\nBoom: y\n")
    )
    [line] = lines()
    assert json.loads(line)["traceback"] == "Traceback:\n  x\nBoom: y\n"


def test_json_message_has_its_level_event_and_text(log_to):
    _, lines = log_to(config.LogFormat.JSON)
    logging.getLogger("ktlsgate").info("listening on %s", ":1", extra={"event": "listening"})
    logging.getLogger("ktlsgate.gate").warning("a\nb")
    first, second = map(json.loads, lines())
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {"event": "listening", "level": "info", "message": "listening on :1"}
    assert (second["event"], second["level"], second["message"]) == ("message", "warning", "a\nb")


def test_json_message_has_the_traceback_of_its_exception(log_to):
    _, lines = log_to(config.LogFormat.JSON)
    try:
        int("x\ny")
    except ValueError:
        logging.getLogger("ktlsgate").exception("bad")
    [line] = lines()
    assert json.loads(line)["traceback"].endswith(
        "ValueError: invalid literal for int() with base 10: 'x\\ny'"
    )


# --- text


def test_text_line_is_a_sentence_and_then_fields():
    assert TextFormatter().format(record_of(HANDOFF)) == (
        "2026-11-20T12:00:00.123Z handoff 192.0.2.1:5555 GET /x?y=1 -> app ktls=tx+rx tls=TLSv1.3"
        " cipher=TLS_AES_128_GCM_SHA256 listener=:8443 sni=a.example resumed=true alpn=http/1.1"
        " host=a.example handshake_ms=1.235 header_ms=0.0 handoff_ms=0.5 duration_ms=2.0 id=7"
    )


def test_text_line_without_a_request_has_only_the_client():
    report = refused(reason="handshake", detail='expected "a", got b = c')
    report.event = Event.HANDSHAKE_FAILED
    assert TextFormatter().format(record_of(report)) == (
        "2026-11-20T12:00:00.123Z handshake_failed c:1 listener=:1 duration_ms=0.0"
        ' reason=handshake detail="expected \\"a\\", got b = c" id=1'
    )


def test_text_value_with_spaces_or_odd_signs_is_quoted_and_escaped():
    report = refused(method="G ET", target="/a\\\r\n\x1b[31m\u202eä\udc80", host="a=b")
    line = TextFormatter().format(record_of(report))
    assert ' "G ET" "/a\\\\\\r\\n\\x1b[31m\\u202eä\\udc80" ' in line
    assert ' host="a=b" ' in line


def test_text_message_has_its_level(log_to):
    _, lines = log_to(config.LogFormat.TEXT)
    logging.getLogger("ktlsgate").warning("kernel %s", "6.1\n2026-01-01T00:00:00.000Z handoff")
    [line] = lines()
    assert re.fullmatch(TIME + r" warning: kernel 6\.1\\n2026-01-01T00:00:00\.000Z handoff", line)


def test_text_traceback_is_indented_so_that_it_cannot_pass_for_a_line(log_to):
    log, lines = log_to(config.LogFormat.TEXT)
    log.write_report(
        ConnectionReport(id=1, listener=":1", client="c:1", traceback="T:\n2026 handoff\x1b\x85x")
    )
    first, *rest = lines()
    assert re.match(TIME + " crashed c:1 ", first)
    assert rest == ["    | T:", "    | 2026 handoff\\x1b", "    | x"]


# --- what peers send


PEER_FIELDS = ("sni", "method", "host", "target", "detail", "alpn", "client")
ANY_TEXT = st.text(st.characters(), max_size=20)  # surrogates too: bytes that were no UTF-8


@given(st.dictionaries(st.sampled_from(PEER_FIELDS), ANY_TEXT))
def test_no_peer_breaks_a_json_line(fields):
    report = ConnectionReport(**{"id": 1, "listener": ":1", "client": "c", **fields})
    line = JsonFormatter().format(record_of(report))
    assert re.fullmatch("[ -~]*", line)
    parsed = json.loads(line)
    assert all(parsed.get(name, "") == value for name, value in fields.items())


@given(st.dictionaries(st.sampled_from(PEER_FIELDS), ANY_TEXT))
def test_no_peer_breaks_a_text_line(fields):
    report = ConnectionReport(**{"id": 1, "listener": ":1", "client": "c", **fields})
    line = TextFormatter().format(record_of(report))
    assert line.isprintable()
    assert len(line.splitlines()) == 1
    line.encode("utf-8")


@given(ANY_TEXT)
def test_no_peer_forges_a_field_of_a_text_line(value):
    """What is outside of quotes is ours."""
    line = TextFormatter().format(record_of(refused(detail=value, target=value + " status=200")))
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", line)
    assert "status=" not in outside
    assert len(re.findall(r" [a-z_]+=", outside)) == (4 if value else 3)


def test_long_value_is_cut():
    parsed = json.loads(JsonFormatter().format(record_of(refused(target="x" * 5000))))
    assert parsed["target"] == "x" * 1024 + "..."


# --- levels


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("info", set(Event)),
        ("warning", {Event.BACKEND_FAILED, Event.CRASHED}),
        ("error", {Event.CRASHED}),
    ],
)
def test_level_decides_which_connections_are_logged(log_to, level, events):
    """What clients cause is never louder than info."""
    log, lines = log_to(config.LogFormat.JSON, level=level)
    for event in Event:
        log.write_report(ConnectionReport(id=1, listener=":1", client="c:1", event=event))
    assert {Event(json.loads(line)["event"]) for line in lines()} == events


# --- where lines go


def test_file_is_made_for_owner_and_group_and_appended_to(tmp_path, log_to):
    old = os.umask(0o022)
    try:
        log, lines = log_to(config.LogFormat.JSON)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o640
    log.write_report(HANDOFF)
    log.close()
    log_to(config.LogFormat.JSON)[0].write_report(HANDOFF)
    assert len(lines()) == 2


def test_file_that_cannot_be_written_is_a_config_error(tmp_path):
    file = tmp_path / "no" / "log"
    with pytest.raises(ConfigError) as caught:
        open_logs(config.Logging(file=str(file)))
    assert caught.value.errors == (
        f"log_file: expected a writable file, got {file}: No such file or directory",
    )


def test_named_pipe_without_a_reader_is_a_config_error_and_not_a_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="expected a writable file"):
        open_logs(config.Logging(file=str(tmp_path / "pipe")))


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_standard_streams_get_json_when_they_are_no_terminal(capfd, name):
    with open_logs(config.Logging(file=name)) as log:
        log.write_report(HANDOFF)
    written = capfd.readouterr()
    assert json.loads(written.out if name == "stdout" else written.err)["id"] == 7


def test_terminal_gets_text():
    leader, follower = os.openpty()
    with open_logs(config.Logging(file=os.ttyname(follower))) as log:
        log.write_report(HANDOFF)
    assert b" handoff 192.0.2.1:5555 GET /x?y=1 -> app " in os.read(leader, 4096)
    os.close(leader)
    os.close(follower)


def test_close_gives_the_logger_back(log_to):
    log, _ = log_to(config.LogFormat.JSON)
    logger = logging.getLogger("ktlsgate")
    assert not logger.propagate
    log.close()
    log.close()
    assert logger.propagate
    assert logger.handlers == []


# --- writes that fail


def test_full_disk_loses_lines_and_nothing_else():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open_logs(config.Logging(file="/dev/full")) as log:
        log.write_report(HANDOFF)
        logging.getLogger("ktlsgate").info("x")
        assert log.lost == 2


@pytest.fixture
def pipe_log(tmp_path):
    """A log into a named pipe; its reading end too."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    log = open_logs(config.Logging(file=str(tmp_path / "pipe")))
    yield log, reader
    log.close()
    os.close(reader)


def test_reader_that_is_gone_loses_lines_and_nothing_else(pipe_log):
    log, reader = pipe_log
    with Path(os.devnull).open() as elsewhere:
        os.dup2(elsewhere.fileno(), reader)
    log.write_report(HANDOFF)
    assert log.lost == 1


def test_reader_that_stalls_stalls_nothing_and_learns_how_many_lines_it_missed(pipe_log):
    log, reader = pipe_log
    for _ in range(1000):  # more than the 64 KiB of a pipe
        log.write_report(HANDOFF)
    lost = log.lost
    assert lost > 0
    before = os.read(reader, 1 << 20)
    log.write_report(HANDOFF)
    gap, line = os.read(reader, 1 << 20).splitlines()
    assert len(before.splitlines()) == 1000 - lost
    assert json.loads(gap)["message"] == f"{lost} log lines were lost"
    assert json.loads(gap)["event"] == "log_lost"
    assert json.loads(line)["event"] == "handoff"
    assert log.lost == lost


def test_line_after_a_torn_one_starts_afresh(pipe_log):
    """A write larger than the space in the pipe goes through in part."""
    log, reader = pipe_log
    crashed = ConnectionReport(id=1, listener=":1", client="c:1", traceback="x" * 100_000)
    log.write_report(crashed)
    torn = os.read(reader, 1 << 20)
    assert not torn.endswith(b"\n")
    log.write_report(HANDOFF)
    rest = os.read(reader, 1 << 20)
    assert rest.startswith(b"\n")
    assert [json.loads(line)["event"] for line in rest.splitlines()[1:]] == ["log_lost", "handoff"]


def test_closed_stderr_is_a_config_error(monkeypatch):
    """Else the number would soon be a client's socket."""

    def closed(_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", closed)
    with pytest.raises(ConfigError, match="got stderr: Bad file descriptor"):
        open_logs(config.Logging())
