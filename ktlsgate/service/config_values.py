"""One value of the operator's file: raw in, checked value out, or what is wrong with it.

A reader is a function from what `tomllib` made of a value to what `config`
holds. It knows neither the key nor the line; it raises `UnexpectedError` with "expected
X, got Y" and the caller puts the place in front. So one reader serves a file
and a command-line flag.

Traps that every reader minds: a TOML boolean is a Python integer, ``inf`` and
``nan`` are TOML floats, and a string may hold a NUL or a line break.
"""

from __future__ import annotations

import difflib
import enum
import json
import math
import os
import pwd
import re
from collections.abc import Callable, Iterable, Mapping

__all__ = [
    "Reader",
    "UnexpectedError",
    "alpn",
    "backend_addresses",
    "boolean",
    "came",
    "count",
    "duration",
    "enumerated",
    "file_path",
    "listing",
    "log_file",
    "nearest",
    "one_of",
    "peer_uid",
    "plain_text",
    "quote",
    "size",
]

Reader = Callable[[object], object]

# Linux: 108 bytes in struct sockaddr_un, one of them the NUL behind a path or
# before an abstract name (unix(7)).
_SUN_PATH_BYTES = 107
_MAX_COUNT = 2**31 - 1  # listen(2) takes an int; no other count comes near it
_MAX_UID = 2**32 - 2  # (uid_t)-1 means "no user" in system calls
_MAX_QUOTED = 100  # enough to recognise one's own text in a message

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"([0-9]{1,9})([km])", re.IGNORECASE)
_BYTES = {"k": 1024, "m": 1024 * 1024}

_NO_ALPN: Mapping[str, str] = {
    "h2": "one HTTP/2 connection carries requests for many routes, "
    "and a socket can be given to one backend only",
    "h3": "HTTP/3 runs over QUIC, not over TLS on TCP",
}


class UnexpectedError(ValueError):
    """A value that cannot be used.

    Attributes:
        parts: every complaint as (indexes into the value, text); indexes are
            empty unless the value is a list.
    """

    def __init__(self, text: str, *more: tuple[tuple[int, ...], str]) -> None:
        """Take a text for the value as a whole, or (with an empty text) one for each element."""
        super().__init__(text or more[0][1])
        self.parts = (((), text), *more) if text else more


def quote(text: str) -> str:
    """Write a string of the operator's in a message: quoted, cut, on one line."""
    cut = text if len(text) <= _MAX_QUOTED else text[:_MAX_QUOTED] + "..."
    return json.dumps(cut, ensure_ascii=not cut.isprintable())


def came(value: object) -> str:
    """Say what a TOML value is, as the "got" of a message."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"{value}"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a table" if isinstance(value, dict) else f"a {type(value).__name__}"


def nearest(name: str, names: Iterable[str]) -> str:
    """Suggest the known name that was perhaps meant: ``; did you mean "X"?`` or nothing."""
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {quote(found[0])}?" if found else ""


def _expected(what: str, value: object, why: str = "") -> UnexpectedError:
    return UnexpectedError(f"expected {what}, got {came(value)}{why}")


def boolean(value: object) -> bool:
    """Read ``true`` or ``false``."""
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def plain_text(value: object) -> str:
    """Read a string of visible ASCII, as OpenSSL's cipher lists are."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]+(?: [!-~]+)*", value):
        raise _expected("a string of visible ASCII characters", value)
    return value


def one_of(*options: str) -> Reader:
    """Make a reader for a string out of a few."""
    *most, last = (quote(option) for option in options)
    what = f"{', '.join(most)} or {last}" if most else last

    def read(value: object) -> str:
        if isinstance(value, str) and value in options:
            return value
        hint = nearest(value, options) if isinstance(value, str) else ""
        raise _expected(what, value, hint)

    return read


def enumerated(kind: type[enum.Enum]) -> Reader:
    """Make a reader for the values of an enum."""
    as_text = one_of(*(member.value for member in kind))
    return lambda value: kind(as_text(value))


def count(minimum: int = 1, maximum: int = _MAX_COUNT) -> Reader:
    """Make a reader for an integer within bounds, both included."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _expected(f"a number from {minimum}", value)
        if not minimum <= value <= maximum:
            raise _expected(f"a number from {minimum} to {maximum}", value)
        return value

    return read


def duration(value: object) -> float:
    """Read seconds: a number, or a string with a unit (``ms``, ``s``, ``m``, ``h``)."""
    seconds = math.nan
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= _MAX_COUNT else math.nan
    if not seconds > 0:  # and so neither nan
        what = 'a duration above 0 such as "250ms", "10s", "5m", "1h" or a number of seconds'
        raise _expected(what, value)
    return seconds


def size(value: object) -> int:
    """Read bytes: an integer, or a string with ``k`` (1024) or ``m`` (1024 * 1024)."""
    number: object = value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        number = int(match[1]) * _BYTES[match[2].lower()]
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= _MAX_COUNT:
        raise _expected('a size above 0 in bytes such as 32768, "32k" or "1m"', value)
    return number


def listing(what: str, element: Reader) -> Callable[[object], tuple[object, ...]]:
    """Make a reader for a list, or for one element alone; all wrong elements are named."""

    def read(value: object) -> tuple[object, ...]:
        if isinstance(value, str):
            return (element(value),)
        if not isinstance(value, list):
            raise _expected(f"{what} or a list of them", value)
        good, bad = [], []
        for index, item in enumerate(value):
            try:
                good.append(element(item))
            except UnexpectedError as exc:
                bad.append(((index,), str(exc)))
        if bad:
            raise UnexpectedError("", *bad)
        return tuple(good)

    return read


def _protocol(value: object) -> str:
    known = one_of("http/1.1", "http/1.0")
    why = _NO_ALPN.get(value) if isinstance(value, str) else None
    if why is not None:
        raise _expected('"http/1.1" or "http/1.0"', value, f": {why}")
    return str(known(value))


def alpn(value: object) -> tuple[str, ...]:
    """Read ALPN names in order of preference; an empty list turns ALPN off."""
    names = tuple(str(name) for name in listing("a protocol name", _protocol)(value))
    if len(set(names)) != len(names):
        raise _expected("each protocol once", ", ".join(names))
    return names


def _no_nul(what: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise _expected(what, value)
    return value


def _below(folder: str, path: str) -> str:
    # Not resolved: a symbolic link must be followed at each use (Kubernetes swaps them).
    return os.path.join(folder, path)  # noqa: PTH118  # a Path would drop a final slash


def file_path(folder: str) -> Reader:
    """Make a reader for a file name; a relative one is taken from ``folder``."""
    return lambda value: _below(folder, _no_nul("the path of a file", value))


def log_file(folder: str) -> Reader:
    """Make a reader for ``stderr``, ``stdout`` or a file name."""

    def read(value: object) -> str:
        name = _no_nul('"stderr", "stdout" or the path of a file', value)
        return name if name in ("stderr", "stdout") else _below(folder, name)

    return read


def backend_addresses(folder: str) -> Reader:
    """Make a reader for one address of a backend or a list of them, each once."""
    read_all = listing('"unix:/PATH", "unix:@NAME"', _backend_address(folder))

    def read(value: object) -> tuple[object, ...]:
        addresses = read_all(value)
        if not addresses:
            raise _expected("at least one address", value)
        for index, address in enumerate(addresses):
            if address in addresses[:index]:
                text = f"expected each address once, got {quote(f'unix:{address}')} again"
                raise UnexpectedError("", ((index,), text))
        return addresses

    return read


def _backend_address(folder: str) -> Reader:
    """Make a reader for ``unix:/PATH`` and ``unix:@NAME``; ``unix:PATH`` is below ``folder``."""

    def read(value: object) -> str:
        what = '"unix:/PATH" or "unix:@NAME"'
        text = _no_nul(what, value)
        scheme, colon, rest = text.partition(":")
        if not colon or scheme != "unix":
            is_path = text.startswith(("/", "./", "../", "@"))
            hint = f"; did you mean {quote('unix:' + text)}?" if is_path else ""
            raise _expected(what, value, hint or ": sockets are given away on Unix sockets only")
        if rest in ("", "@"):
            raise _expected(what, value)
        if rest.startswith("@"):
            _check_length("a socket name", rest[1:])
            return rest
        path = _below(folder, rest)
        _check_length("a socket path", path)
        return path

    return read


def _check_length(what: str, name: str) -> None:
    length = len(os.fsencode(name))
    if length > _SUN_PATH_BYTES:
        raise UnexpectedError(
            f"expected {what} of at most {_SUN_PATH_BYTES} bytes (sun_path), "
            f"got {length}: {quote(name)}"
        )


def peer_uid(value: object) -> int:
    """Read a user id, or the name of a user of this machine."""
    if isinstance(value, str) and value and "\0" not in value:
        try:
            return pwd.getpwnam(value).pw_uid
        except KeyError:
            raise _expected("a user id or the name of a user", value) from None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_UID:
        raise _expected("a user id or the name of a user", value)
    return value
