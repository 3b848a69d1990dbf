"""Request targets and authorities: which forms the gate takes, and what they name.

Four forms exist (RFC 9112 section 3.2). The gate takes ``origin`` (``/a?b``), ``absolute``
(``https://host/a?b``, http and https only) and, for OPTIONS, ``asterisk``. The
``authority`` form belongs to CONNECT: a gate is no forward proxy.

Host names: letters, digits, ``-``, ``_`` and dots between non-empty labels, one
dot at the end allowed and kept; or an IPv6 address in brackets. RFC 3986 would also
allow ``%41`` and ``!$&'()*,;=``; no DNS name has them, and a name that two programs
may read differently must not choose a route.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass

from ..errors import HeadRejected

__all__ = ["Authority", "Target", "parse_authority", "parse_target"]

_MAX_HOST = 255  # bytes; RFC 1035 section 2.3.4
_LABEL = rb"[0-9A-Za-z_-]++"
_AUTHORITY = re.compile(
    rb"(" + _LABEL + rb"(?:\." + _LABEL + rb")*\.?+|\[[0-9A-Fa-f:.]++\])(?::([0-9]{0,5}+))?"
)
_ABSOLUTE = re.compile(rb"(?i:(https?))://([^/?]*+)(/[^?]*+)?(?:\?(.*+))?", re.DOTALL)
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A host and, if it was written, a port.

    Attributes:
        host: lower case, IPv6 with its brackets.
        port: 0 to 65535; None when absent or empty.
    """

    host: str
    port: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A request target, taken apart.

    Attributes:
        path: without query, percent signs untouched; ``*`` for the asterisk form.
        query: behind the first ``?``; empty when there is none.
        authority: of the absolute form, its port filled in from the scheme.
        default_port: 80 or 443 by the scheme; None except in the absolute form.
    """

    path: bytes
    query: bytes
    authority: Authority | None = None
    default_port: int | None = None


@functools.lru_cache(maxsize=256)  # of at most 261 bytes: longer ones raise
def parse_authority(value: bytes) -> Authority:
    """Parse ``uri-host [ ":" port ]``, as in Host (RFC 9110 section 7.2).

    Raises:
        HeadRejected: 400 when it is empty, has userinfo, or is no host and port.
    """
    match = _AUTHORITY.fullmatch(value)
    if match is None:
        if b"@" in value:
            raise HeadRejected(400, "userinfo in an authority")
        raise HeadRejected(400, "invalid host or port" if value else "empty host")
    host_bytes, port_digits = match.groups()
    if len(host_bytes) > _MAX_HOST:
        raise HeadRejected(400, f"host longer than {_MAX_HOST} bytes")
    host = host_bytes.decode("ascii").lower()
    if host[0] == "[":
        _check_ipv6(host[1:-1])
    port = int(port_digits) if port_digits else None
    if port is not None and port > 0xFFFF:
        raise HeadRejected(400, "port over 65535")
    return Authority(host=host, port=port)


def _check_ipv6(text: str) -> None:
    """Refuse what is no IPv6 address (RFC 3986 section 3.2.2)."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError as exc:
        raise HeadRejected(400, "invalid IPv6 address") from exc


def parse_target(method: bytes, target: bytes) -> Target:
    """Take a request target apart (RFC 9112 section 3.2).

    Args:
        method: decides about the asterisk form.
        target: not empty, bytes 0x21 to 0x7e without ``#``.

    Raises:
        HeadRejected: 400 when the form is none that this method may have.
    """
    if target.startswith(b"/"):
        path, _, query = target.partition(b"?")
        return Target(path=path, query=query)
    if target == b"*" and method == b"OPTIONS":
        return Target(path=b"*", query=b"")
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise HeadRejected(400, "expected a path or an http(s) URL as the request target")
    scheme, authority_bytes, path, query = match.groups()
    if path is None:
        # RFC 9110 4.2.3: an empty path is "/"; RFC 9112 3.2.4: but "*" in a bare OPTIONS.
        path = b"*" if method == b"OPTIONS" and query is None else b"/"
    default_port = _DEFAULT_PORTS[scheme.lower()]
    written = parse_authority(authority_bytes)
    port = default_port if written.port is None else written.port
    authority = Authority(host=written.host, port=port)
    return Target(path=path, query=query or b"", authority=authority, default_port=default_port)
