"""The values of a connection's one line."""

from ktlsgate.gate.report import ConnectionReport, Event


def test_a_report_that_nobody_finished_is_a_crash():
    assert ConnectionReport(id=1, listener="x", client="y").event is Event.CRASHED


def test_the_names_of_events_are_what_logs_and_counters_say():
    assert [event.value for event in Event] == [
        "handoff", "relay", "refused", "handshake_failed", "backend_failed", "timeout",
        "client_gone", "shutdown", "crashed",
    ]  # fmt: skip


def test_a_traceback_is_not_in_the_repr():
    report = ConnectionReport(id=1, listener="x", client="y", traceback="File secret.py")
    assert "secret" not in repr(report)


def test_a_later_end_takes_the_place_of_an_earlier_one():
    report = ConnectionReport(id=1, listener="x", client="y")
    report.end(Event.REFUSED, "bad_head", "missing Host")
    report.end(Event.SHUTDOWN, "shutdown")
    assert (report.event, report.reason, report.detail) == (Event.SHUTDOWN, "shutdown", "")


def test_a_crash_keeps_the_error_and_where_it_came_from():
    report = ConnectionReport(id=1, listener="x", client="y")
    try:
        int("seven")
    except ValueError as exc:
        report.crash(exc)
    assert (report.event, report.reason) == (Event.CRASHED, "crashed")
    assert report.detail == "ValueError: invalid literal for int() with base 10: 'seven'"
    assert "test_report.py" in report.traceback
