"""Log lines: one for each connection, and the process's own messages.

Theory: both go through the standard library's logger ``ktlsgate``, so any module
may log without being handed a log; two formatters write JSON or text. The bytes
leave by one write on one descriptor, past Python's buffered streams: a buffer
that cannot be flushed would fail again and again, at exit too.

Invariants:
    * One message is one line, whatever a peer sent: no line break and no control
      character is ever written raw. (A traceback in text form is the exception:
      its lines are indented, so none can pass for a message.)
    * Logging never raises and never waits. A line that cannot be written now is
      lost, counted, and the count is logged as soon as writing works again.

Levels: what clients do is ``info``, handshake failures too; a backend that
failed is ``warning``; a bug of ours is ``error``.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from ..config import LogFormat, Logging
from ..errors import ConfigError
from ..gate.report import ConnectionReport, Event

__all__ = ["JsonFormatter", "Logs", "TextFormatter", "open_logs"]

_LOGGER = "ktlsgate"
_STANDARD = {"stdout": 1, "stderr": 2}
_LEVELS = {Event.BACKEND_FAILED: logging.WARNING, Event.CRASHED: logging.ERROR}

# Names of log fields, in the order of a line, and the report's attributes.
# peers.md section 3 (haproxy's order); `id` is last as it interests the fewest.
_FIELDS = (
    ("client", "client"),
    ("listener", "listener"),
    ("sni", "sni"),
    ("tls", "tls"),
    ("cipher", "cipher"),
    ("resumed", "is_resumed"),
    ("alpn", "alpn"),
    ("engine", "engine"),
    ("ktls", "ktls"),
    ("fallback", "fallback"),
    ("fallback_detail", "fallback_detail"),
    ("backend", "backend"),
    ("method", "method"),
    ("host", "host"),
    ("target", "target"),
    ("status", "status"),
    ("handshake_ms", "handshake_ms"),
    ("header_ms", "header_ms"),
    ("handoff_ms", "handoff_ms"),
    ("duration_ms", "duration_ms"),
    ("bytes_in", "bytes_in"),
    ("bytes_out", "bytes_out"),
    ("reason", "reason"),
    ("detail", "detail"),
    ("id", "id"),
)
# These make the sentence at the start of a text line; the rest follows as key=value.
_IN_SENTENCE = frozenset({"client", "method", "target", "backend"})
# People look for these first.
_FIRST_IN_TEXT = ("ktls", "tls", "cipher")
# A target may be as long as a head; a log line that long helps only its sender.
_MAX_VALUE = 1024

_LIKE_A_FIELD = re.compile(r"\w+=")

_FieldValue = str | int | float


class Logs:
    """The open log; a context manager that detaches from the logger at its end."""

    def __init__(self, settings: Logging) -> None:
        """Open the log; see `open_logs`."""
        self._handler = _Handler(_open(settings.file))
        self._handler.setFormatter(_formatter(settings.format, self._handler.descriptor))
        self._logger = logging.getLogger(_LOGGER)
        self._logger.setLevel(settings.level.upper())
        self._logger.addHandler(self._handler)
        self._logger.propagate = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def lost(self) -> int:
        """Lines that could not be written so far."""
        return self._handler.lost

    def write_report(self, report: ConnectionReport) -> None:
        """Write the line of one connection; a `gate.report.Report`. Never raises, never waits."""
        level = _LEVELS.get(report.event, logging.INFO)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "", extra={"report": report})

    def close(self) -> None:
        """Detach from the logger and close the descriptor; may be called again."""
        self._logger.removeHandler(self._handler)
        self._logger.propagate = True
        self._logger.setLevel(logging.NOTSET)
        self._handler.close()


def open_logs(settings: Logging) -> Logs:
    """Open the log and send the messages of the logger ``ktlsgate`` there.

    A file is appended to, and made with mode 0640 (less the umask).

    Raises:
        ConfigError: the file cannot be opened for writing.
    """
    return Logs(settings)


def _open(file: str) -> int:
    try:
        if file in _STANDARD:
            return os.dup(_STANDARD[file])
        # O_NONBLOCK is for a named pipe: without a reader the open fails instead
        # of waiting, and with a slow one a line is lost instead of time.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(file, flags | os.O_NONBLOCK | os.O_NOCTTY, 0o640)
    except OSError as exc:
        why = exc.strerror or str(exc)
        raise ConfigError(f"log_file: expected a writable file, got {file}: {why}") from exc


def _formatter(wanted: LogFormat, descriptor: int) -> logging.Formatter:
    is_text = wanted is LogFormat.TEXT
    if wanted is LogFormat.AUTO:
        is_text = os.isatty(descriptor)
    return TextFormatter() if is_text else JsonFormatter()


class _Handler(logging.Handler):
    """One write for each record, on a descriptor of our own."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor
        self.lost = 0
        self._lost_unsaid = 0
        self._is_torn = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, and before it how many were lost."""
        if self._lost_unsaid and self._write(self.format(_lost_record(self._lost_unsaid))):
            self._lost_unsaid = 0
        if self._lost_unsaid or not self._write(self.format(record)):
            self.lost += 1
            self._lost_unsaid += 1

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        super().close()

    def _write(self, line: str) -> bool:
        data = line.encode("utf-8") + b"\n"
        if self._is_torn:  # a part of a line is in the file; this one starts afresh
            data = b"\n" + data
        try:
            # A reader of our pipe that stalls must not stall the gate. (POLLOUT
            # on a pipe means that PIPE_BUF bytes fit; nearly every line does.)
            poller = select.poll()
            poller.register(self.descriptor, select.POLLOUT)
            if not poller.poll(0):
                return False
            written = os.write(self.descriptor, data)
        except (OSError, ValueError):  # poll() answers a closed descriptor with ValueError
            return False
        self._is_torn = written < len(data)
        return not self._is_torn


def _lost_record(count: int) -> logging.LogRecord:
    record = logging.LogRecord(
        _LOGGER, logging.WARNING, "", 0, "%d log lines were lost", (count,), None
    )
    record.event = "log_lost"
    return record


class JsonFormatter(logging.Formatter):
    """One JSON object for each line; all but visible ASCII is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Write ``time`` and ``event``, then the report's fields or ``level`` and ``message``."""
        values: dict[str, _FieldValue] = {"time": _time(record)}
        report = _report_of(record)
        if report is not None:
            values["event"] = report.event.value
            values.update(_fields(report))
            trace = report.traceback
        else:
            values["event"] = _event_of(record)
            values["level"] = record.levelname.lower()
            values["message"] = _cut(record.getMessage())
            trace = _trace_of(self, record)
        if trace:
            values["traceback"] = trace
        # JSON leaves DEL alone, which is a control character all the same. It can
        # only stand in strings, where the escape means the same.
        return json.dumps(values).replace("\x7f", "\\u007f")


class TextFormatter(logging.Formatter):
    """A line for people: time, what happened, to whom, then ``key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """Write ``TIME EVENT CLIENT METHOD TARGET -> BACKEND key=value ...`` or a message."""
        report = _report_of(record)
        if report is not None:
            line = f"{_time(record)} {_report_text(report)}"
            trace = report.traceback
        else:
            message = _visible(_cut(record.getMessage()), also="")
            line = f"{_time(record)} {record.levelname.lower()}: {message}"
            trace = _trace_of(self, record)
        # Indented: text from a peer in an exception cannot pass for a line of ours.
        indented = (f"\n    | {_visible(text, also='')}" for text in trace.splitlines())
        return line + "".join(indented)


def _report_text(report: ConnectionReport) -> str:
    fields = dict(_fields(report))
    words = [report.event.value, _word(report.client)]
    words += [_word(text) for text in (report.method, report.target) if text]
    words += ["->", _word(report.backend)] if report.backend else []
    names = (*_FIRST_IN_TEXT, *(name for name, _ in _FIELDS if name not in _FIRST_IN_TEXT))
    words += [
        f"{name}={_word(fields[name])}"
        for name in names
        if name in fields and name not in _IN_SENTENCE
    ]
    return " ".join(words)


def _fields(report: ConnectionReport) -> Iterator[tuple[str, _FieldValue]]:
    """Name the fields that say something, in order."""
    for name, attribute in _FIELDS:
        value = getattr(report, attribute)
        if isinstance(value, float):
            yield name, round(value, 3)  # microseconds; a duration of 0.0 says something
        elif isinstance(value, str) and value:
            yield name, _cut(value)
        elif value:
            yield name, value


def _word(value: _FieldValue) -> str:
    """Write a value so that it ends where it seems to end."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return f"{value}"
    cut = _cut(value)
    shown = _visible(cut, also='"\\')
    is_plain = shown and shown == cut and " " not in cut and not _LIKE_A_FIELD.match(cut)
    return shown if is_plain else f'"{shown}"'


def _visible(text: str, also: str) -> str:
    """Escape what is not printable (so bidirectional marks too), and the signs of ``also``."""
    if text.isprintable() and not any(sign in text for sign in also):
        return text
    return "".join(
        f"\\{sign}" if sign in also else sign if sign.isprintable() else _escaped(sign)
        for sign in text
    )


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "..."


def _report_of(record: logging.LogRecord) -> ConnectionReport | None:
    report = getattr(record, "report", None)
    return report if isinstance(report, ConnectionReport) else None


def _event_of(record: logging.LogRecord) -> str:
    """A message's own name, given as ``extra={"event": "..."}``."""
    return str(getattr(record, "event", "message"))


def _trace_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    return formatter.formatException(record.exc_info) if record.exc_info else ""


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
