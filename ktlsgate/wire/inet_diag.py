"""One question to the kernel's socket table and its answer, as bytes: what ``ss -tie`` asks.

Theory: a netlink message is a header, a fixed struct and attributes (length, type,
value, padded to 4). The upper layer protocol is one attribute, with a name and, for
``tls``, numbers in a nest of its own. To readers without CAP_NET_ADMIN the kernel gives
no such attribute (before 6.15), so its absence alone proves nothing.
Source: include/uapi/linux/{netlink,inet_diag,sock_diag,tls}.h.
"""

from __future__ import annotations

import enum
import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Keys", "SocketAnswer", "build_question", "parse_answer"]

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_NLMSG_ERROR = 2
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1

_QUESTION = struct.Struct("=BBBxI")  # struct inet_diag_req_v2: family, protocol, ext, states
_ID = struct.Struct("!HH16s16s")  # struct inet_diag_sockid: ports and addresses ...
_ID_REST = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # ... any interface, no cookie
_ANSWER = struct.Struct("=BBBB48s5I")  # struct inet_diag_msg
_ATTRIBUTE = struct.Struct("=HH")
_NUMBER = struct.Struct("=H")
_ERROR = struct.Struct("=i")
_ALL_STATES = 0xFFFFFFFF
_WITH_INFO = 1 << 1  # INET_DIAG_INFO as a bit: without it the kernel leaves the ULP out too
_ESTABLISHED = 1  # TCP_ESTABLISHED (net/tcp_states.h)
_AF_INET, _AF_INET6, _TCP = 2, 10, 6  # linux/socket.h, linux/in.h
_TYPE_MASK = 0x3FFF  # the two upper bits say "nested" and "byte order"

_INET_DIAG_ULP_INFO = 19
_INET_ULP_INFO_NAME = 1
_INET_ULP_INFO_TLS = 2
_TLS_INFO_TXCONF = 3
_TLS_INFO_RXCONF = 4


class Keys(enum.IntEnum):
    """Who has one direction's keys (linux/tls.h, TLS_CONF_*)."""

    NONE = 1  # the kernel's name is "base": the layer is there, without keys
    SOFTWARE = 2
    HARDWARE = 3
    HARDWARE_RECORD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketAnswer:
    """What the kernel says of one socket.

    Attributes:
        peer_port: of its other end; 0 for a listener.
        is_established: neither side has closed; a closed one has lost its keys already.
        ulp: the upper layer protocol's name; empty for none, or none that is told.
        tx, rx: who has its keys; ``None`` where that is not told.
    """

    peer_port: int
    is_established: bool
    ulp: str = ""
    tx: Keys | None = None
    rx: Keys | None = None


def _packed(host: str) -> bytes:
    return ipaddress.ip_address(host.partition("%")[0]).packed.ljust(16, b"\0")


def build_question(local: tuple[str, int], peer: tuple[str, int]) -> bytes:
    """Ask for the TCP socket with these two ends, addresses as numbers.

    Raises:
        ValueError: a host is no address.
    """
    family = _AF_INET6 if ":" in local[0] else _AF_INET
    body = _QUESTION.pack(family, _TCP, _WITH_INFO, _ALL_STATES)
    body += _ID.pack(local[1], peer[1], _packed(local[0]), _packed(peer[0])) + _ID_REST
    size = _HEADER.size + len(body)
    return _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0) + body


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def _keys(value: bytes | None) -> Keys | None:
    return _KEYS.get(_NUMBER.unpack(value)[0]) if value and len(value) == _NUMBER.size else None


_KEYS = {keys.value: keys for keys in Keys}


def parse_answer(data: bytes) -> SocketAnswer | int:
    """Read it.

    Returns:
        The socket, or the errno that the kernel answered with.

    Raises:
        ValueError: it is no answer to our question.
    """
    try:
        size, kind, *_ = _HEADER.unpack_from(data)
        body = data[_HEADER.size : size]
        if kind == _NLMSG_ERROR:
            return -int(_ERROR.unpack_from(body)[0])
        fields = _ANSWER.unpack_from(body)
    except struct.error as exc:
        raise ValueError(f"expected a whole netlink message, got {len(data)} bytes") from exc
    if kind != _SOCK_DIAG_BY_FAMILY:
        raise ValueError(f"expected an answer about a socket, got a message of type {kind}")
    ulp = dict(_attributes(dict(_attributes(body[_ANSWER.size :])).get(_INET_DIAG_ULP_INFO, b"")))
    tls = dict(_attributes(ulp.get(_INET_ULP_INFO_TLS, b"")))
    return SocketAnswer(
        peer_port=int.from_bytes(fields[4][2:4], "big"),
        is_established=fields[1] == _ESTABLISHED,
        ulp=ulp.get(_INET_ULP_INFO_NAME, b"").rstrip(b"\0").decode("ascii", "replace"),
        tx=_keys(tls.get(_TLS_INFO_TXCONF)),
        rx=_keys(tls.get(_TLS_INFO_RXCONF)),
    )
