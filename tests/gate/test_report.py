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
