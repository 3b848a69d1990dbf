"""Names that the network side sees: listening addresses, host patterns, path prefixes.

They are brought to one spelling here (lower case, ASCII, compressed IPv6), so
that routes can be compared as text, by the gate and by `config_routes`.
"""

from __future__ import annotations

import ipaddress
import re

from .config_values import UnexpectedError, came, listing, quote

__all__ = ["host_patterns", "listen_address", "route_path", "split_address"]

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_ADDRESS_FORMS = '"HOST:PORT", "[V6]:PORT", "*:PORT" or ":PORT"'
_HOST_FORMS = 'a host name such as "example.com", "*.example.com" or "*"'


def split_address(address: str) -> tuple[str, int]:
    """Split a listening address into host and port.

    Args:
        address: ``HOST:PORT``, ``[V6]:PORT``, ``*:PORT`` or ``:PORT``.

    Returns:
        The host in lower case without brackets, empty for every address of the
        machine; the port, 0 for one that the kernel picks.

    Raises:
        ValueError: it is none of these; the text says what was expected.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port):
        raise UnexpectedError(f"expected {_ADDRESS_FORMS}, got {quote(address)}")
    if int(port) > 65535:
        raise UnexpectedError(f"expected a port from 0 to 65535, got {quote(address)}")
    if host in ("", "*"):
        return "", int(port)
    if host.startswith("["):
        return _ipv6(host, address, _ADDRESS_FORMS), int(port)
    if ":" in host:
        why = "; an IPv6 address stands in brackets"
        raise UnexpectedError(f"expected {_ADDRESS_FORMS}, got {quote(address)}{why}")
    return _ascii_name(host, address, _ADDRESS_FORMS), int(port)


def listen_address(value: object) -> str:
    """Read the address of a listener; it stays as the operator wrote it."""
    if not isinstance(value, str):
        raise UnexpectedError(f"expected {_ADDRESS_FORMS}, got {came(value)}")
    split_address(value)
    return value


def host_patterns(value: object) -> tuple[str, ...]:
    """Read one host pattern or a list: lower case, IDNA-ASCII, each once."""
    patterns = listing("a host name", _host_pattern)(value)
    if not patterns:
        raise UnexpectedError(f"expected at least one host name, got {came(value)}")
    return tuple(dict.fromkeys(str(pattern) for pattern in patterns))


def route_path(value: object) -> str:
    """Read a path prefix as it stands in a request line (percent-encoded)."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise UnexpectedError(f'expected a path that starts with "/", got {came(value)}')
    if not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
        what = 'a path as in a request line: visible ASCII, no "?" and no "#"'
        raise UnexpectedError(f"expected {what}, got {quote(value)}")
    if value != "/" and value.endswith("/"):
        hint = f"; did you mean {quote(value.rstrip('/') or '/')}, which matches all below it?"
        raise UnexpectedError(f'expected a path without a final "/", got {quote(value)}{hint}')
    if {".", ".."} & set(value.split("/")):
        raise UnexpectedError(f'expected a path without "." and ".." in it, got {quote(value)}')
    return value


def _host_pattern(value: object) -> str:
    if value == "*":
        return "*"
    if not isinstance(value, str):
        raise UnexpectedError(f"expected {_HOST_FORMS}, got {came(value)}")
    if value.startswith("["):
        return f"[{_ipv6(value, value, _HOST_FORMS)}]"
    if ":" in value:
        raise UnexpectedError(f"expected {_HOST_FORMS}, got {quote(value)}: it has no port")
    star = "*." if value.startswith("*.") else ""
    return star + _ascii_name(value.removeprefix(star), value, _HOST_FORMS)


def _ipv6(text: str, whole: str, forms: str) -> str:
    try:
        return ipaddress.IPv6Address(text[1:-1] if text.endswith("]") else "").compressed
    except ValueError:
        raise UnexpectedError(
            f"expected {forms} with an IPv6 address in the brackets, got {quote(whole)}"
        ) from None


def _ascii_name(text: str, whole: str, forms: str) -> str:
    name = text.lower().removesuffix(".")
    if not name.isascii():
        name = _to_ascii(name, whole, forms)
    labels = name.split(".")
    if len(name) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise UnexpectedError(f"expected {forms}, got {quote(whole)}")
    return name


def _to_ascii(name: str, whole: str, forms: str) -> str:
    # Not the standard library's codec: it is IDNA 2003 and turns "ß" into "ss",
    # where browsers (UTS 46, non-transitional) ask for another name.
    import idna

    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError as exc:
        raise UnexpectedError(f"expected {forms}, got {quote(whole)}: {exc}") from exc
