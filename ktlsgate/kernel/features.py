"""What else an offloaded socket can do here: each feature tried for real.

Rule: one feature, one trial, one row in `_TRIALS`. A trial gets a fresh pair of
plain TCP sockets and a traffic secret, and puts the kernel's keys where it needs
them. Keys are random and the other side is the kernel too, so no cipher has to be
known here: with the same key on both ends, what one seals the other opens.
Source: Documentation/networking/tls.rst; answers observed on Linux 6.1, 6.12, 7.2.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import functools
import os
import select
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ..wire.ciphers import CipherSuite, Version
from ..wire.crypto_info import RxCryptoInfo, TxCryptoInfo
from ..wire.key_schedule import AeadKey, TrafficSecret
from ..wire.messages import CLOSE_NOTIFY, KEY_UPDATE
from ..wire.records import HEADER_SIZE, ContentType
from .ancillary import recv_fds, send_fds
from .ktls import KEY_REASONS, SOL_TLS, TLS_TX, attach_ulp, install_rx, install_tx
from .records import recv_record, send_record
from .signal_trial import send_under_signals
from .trials import NOT_TRIED, TIMEOUT, Outcome, attempt, loopback_pair, on_pair, recv_exactly

__all__ = ["ON_REQUEST", "Feature", "FeatureName", "probe_features", "random_key", "try_feature"]

# linux/tls.h: options beside the keys.
_TLS_TX_ZEROCOPY_RO = 3
_TLS_RX_EXPECT_NO_PAD = 4
_TLS_TX_MAX_PAYLOAD_LEN = 5

_IPPROTO_MPTCP = 262  # linux/in.h; Python's socket module has no name for it before 3.12

_TEXT = b"sixteen bytes..." * 64
_SMALL_RECORD = 1000  # bytes of plaintext; any size well below 16384 shows the limit works
_OVERHEAD = 25  # the most that sealing adds to it: 1.2 8 + 16, 1.3 1 + 16
_QUIET = 0.05  # seconds for poll to speak up about a partial record


class FeatureName(enum.StrEnum):
    """What can be asked of a kernel that has kTLS."""

    CONTROL_RECORDS = "control_records"  # alerts by ancillary data, both ways
    REKEY = "rekey"  # KeyUpdate: new keys on both ends, and data under them
    SENDFILE = "sendfile"
    SPLICE_TO_SOCKET = "splice_to_socket"
    SPLICE_FROM_SOCKET = "splice_from_socket"
    TX_MAX_PAYLOAD_LEN = "tx_max_payload_len"  # smaller records, for max_fragment_length
    TX_ZEROCOPY_RO = "tx_zerocopy_ro"  # accepted; of use with a network card's TLS only
    RX_EXPECT_NO_PAD = "rx_expect_no_pad"  # TLS 1.3
    POLL_HIDES_PARTIAL_RECORDS = "poll_hides_partial_records"  # else poll loops spin
    KEYS_READABLE = "keys_readable"  # by whoever holds the descriptor
    FD_PASSING = "fd_passing"  # SCM_RIGHTS: whoever receives the socket goes on with it
    IPV6 = "ipv6"
    MPTCP = "mptcp"  # no kernel yet: TLS listeners must be plain TCP
    SEND_SURVIVES_SIGNALS = "send_survives_signals"  # a blocking one; takes a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature and what became of its trial."""

    name: FeatureName
    outcome: Outcome


def random_key(suite: CipherSuite) -> AeadKey:
    """Make a key that nobody else has, of the sizes the suite wants."""
    iv = 12 if suite.version is Version.TLS13 else suite.shape.fixed_iv
    return AeadKey(key=os.urandom(suite.shape.key), iv=os.urandom(iv))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bench:
    """A fresh pair and a secret; the methods put keys where a trial needs them."""

    near: socket.socket
    far: socket.socket
    suite: CipherSuite
    secret: TrafficSecret
    key: AeadKey

    def tx(self) -> None:
        """``near`` seals what it sends."""
        attach_ulp(self.near)
        install_tx(self.near, TxCryptoInfo(suite=self.suite, key=self.key, rec_seq=0))

    def rx(self, sock: socket.socket) -> None:
        """``sock`` opens what it receives."""
        if sock is not self.near:
            attach_ulp(sock)
        install_rx(sock, RxCryptoInfo(suite=self.suite, key=self.key, rec_seq=0))

    def both(self) -> None:
        """What ``near`` seals ``far`` opens."""
        self.tx()
        self.rx(self.far)


def _is_readable(sock: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _expect(expected: object, got: object, what: str) -> str | None:
    # What came is not shown: it could be ciphertext or key bytes.
    return None if expected == got else f"{what} did not come as it was sent"


def _control_records(bench: _Bench) -> str | None:
    bench.both()
    send_record(bench.near, ContentType.ALERT, CLOSE_NOTIFY)
    got = recv_record(bench.far, 64)
    return _expect((ContentType.ALERT, CLOSE_NOTIFY), got, "an alert")


def _rekey(bench: _Bench) -> str | None:
    bench.both()
    following = bench.secret.next_generation().derive_key()
    send_record(bench.near, ContentType.HANDSHAKE, KEY_UPDATE)
    install_tx(bench.near, TxCryptoInfo(suite=bench.suite, key=following, rec_seq=0))
    if recv_record(bench.far, 64) != (ContentType.HANDSHAKE, KEY_UPDATE):
        return "the KeyUpdate did not come as it was sent"
    install_rx(bench.far, RxCryptoInfo(suite=bench.suite, key=following, rec_seq=0))
    bench.near.sendall(_TEXT)
    return _expect(_TEXT, recv_exactly(bench.far, len(_TEXT)), "data under the new key")


@contextlib.contextmanager
def _closing(*fds: int) -> Iterator[None]:
    try:
        yield
    finally:
        for fd in fds:
            os.close(fd)


def _sendfile(bench: _Bench) -> str | None:
    bench.both()
    file = os.memfd_create("ktlsgate-probe", os.MFD_CLOEXEC)
    with _closing(file):
        os.write(file, _TEXT)
        sent = os.sendfile(bench.near.fileno(), file, 0, len(_TEXT))
    return _expect(_TEXT[:sent], recv_exactly(bench.far, sent), "the file") if sent else "sent 0"


def _splice_to_socket(bench: _Bench) -> str | None:
    bench.both()
    pipe_out, pipe_in = os.pipe()
    with _closing(pipe_out, pipe_in):
        os.write(pipe_in, _TEXT)
        sent = os.splice(pipe_out, bench.near.fileno(), len(_TEXT))
    return _expect(_TEXT[:sent], recv_exactly(bench.far, sent), "the data") if sent else "sent 0"


def _splice_from_socket(bench: _Bench) -> str | None:
    bench.both()
    bench.near.sendall(_TEXT)
    pipe_out, pipe_in = os.pipe()
    with _closing(pipe_out, pipe_in):
        if not _is_readable(bench.far, TIMEOUT):
            return "the data never came"
        moved = os.splice(bench.far.fileno(), pipe_in, len(_TEXT))
        got = os.read(pipe_out, len(_TEXT)) if moved else b""
    return _expect(_TEXT[:moved] or _TEXT, got, "the data")


def _tx_max_payload_len(bench: _Bench) -> str | None:
    bench.tx()
    bench.near.setsockopt(SOL_TLS, _TLS_TX_MAX_PAYLOAD_LEN, struct.pack("=H", _SMALL_RECORD))
    bench.near.sendall(_TEXT + _TEXT)
    header = recv_exactly(bench.far, HEADER_SIZE)
    length = int.from_bytes(header[3:], "big")
    if _SMALL_RECORD <= length <= _SMALL_RECORD + _OVERHEAD:
        return None
    return f"accepted, but a record of {length} bytes was sent"


def _tx_zerocopy_ro(bench: _Bench) -> None:
    bench.tx()
    bench.near.setsockopt(SOL_TLS, _TLS_TX_ZEROCOPY_RO, 1)


def _rx_expect_no_pad(bench: _Bench) -> str | None:
    bench.both()
    bench.far.setsockopt(SOL_TLS, _TLS_RX_EXPECT_NO_PAD, 1)
    bench.near.sendall(_TEXT)
    return _expect(_TEXT, recv_exactly(bench.far, len(_TEXT)), "the data")


def _poll_hides_partial_records(bench: _Bench) -> str | None:
    # `far` stays plain and sends back what `near` sealed, in two pieces; `near`
    # has the same key for receiving, so to it the record is in order.
    bench.tx()
    bench.rx(bench.near)
    bench.near.sendall(_TEXT)
    record = recv_exactly(bench.far, HEADER_SIZE)
    record += recv_exactly(bench.far, int.from_bytes(record[3:], "big"))
    bench.far.sendall(record[:100])
    if _is_readable(bench.near, _QUIET):
        return "a partial record makes poll report data that recv does not give"
    bench.far.sendall(record[100:])
    if not _is_readable(bench.near, TIMEOUT):
        return "poll does not report the whole record either"
    return _expect(_TEXT, recv_exactly(bench.near, len(_TEXT)), "the record")


def _keys_readable(bench: _Bench) -> str | None:
    bench.tx()
    packed = TxCryptoInfo(suite=bench.suite, key=bench.key, rec_seq=0).pack()
    read = bench.near.getsockopt(SOL_TLS, TLS_TX, len(packed))
    return None if bench.key.key in read else "getsockopt gave something else than the key"


def _fd_passing(bench: _Bench) -> str | None:
    bench.both()
    here, there = socket.socketpair()
    with here, there:
        send_fds(here, b"!", [bench.near.fileno(), bench.far.fileno()])
        # As the gate does: from here on the only owner is whoever received them.
        bench.near.close()
        bench.far.close()
        _, fds, _ = recv_fds(there, 1, 2)
    with contextlib.ExitStack() as stack:
        passed = [stack.enter_context(socket.socket(fileno=fd)) for fd in fds]
        if len(passed) != 2:
            return "the descriptors did not come"
        return _move(*passed)


def _move(sender: socket.socket, receiver: socket.socket) -> str | None:
    sender.settimeout(TIMEOUT)
    sender.sendall(_TEXT)
    return _expect(_TEXT, recv_exactly(receiver, len(_TEXT)), "the data")


def _ipv6(bench: _Bench) -> str | None:
    with loopback_pair(socket.AF_INET6) as (near, far):
        dataclasses.replace(bench, near=near, far=far).both()
        return _move(near, far)


def _mptcp(bench: _Bench) -> str | None:
    with loopback_pair(protocol=_IPPROTO_MPTCP) as (near, far):
        dataclasses.replace(bench, near=near, far=far).both()
        return _move(near, far)


def _send_survives_signals(bench: _Bench) -> str | None:
    bench.both()
    return send_under_signals(bench.near, bench.far)


_TRIALS: dict[FeatureName, Callable[[_Bench], str | None]] = {
    FeatureName.CONTROL_RECORDS: _control_records,
    FeatureName.REKEY: _rekey,
    FeatureName.SENDFILE: _sendfile,
    FeatureName.SPLICE_TO_SOCKET: _splice_to_socket,
    FeatureName.SPLICE_FROM_SOCKET: _splice_from_socket,
    FeatureName.TX_MAX_PAYLOAD_LEN: _tx_max_payload_len,
    FeatureName.TX_ZEROCOPY_RO: _tx_zerocopy_ro,
    FeatureName.RX_EXPECT_NO_PAD: _rx_expect_no_pad,
    FeatureName.POLL_HIDES_PARTIAL_RECORDS: _poll_hides_partial_records,
    FeatureName.KEYS_READABLE: _keys_readable,
    FeatureName.FD_PASSING: _fd_passing,
    FeatureName.IPV6: _ipv6,
    FeatureName.MPTCP: _mptcp,
    FeatureName.SEND_SURVIVES_SIGNALS: _send_survives_signals,
}

# Tried only when somebody asks: it takes a second, and the process's SIGALRM.
ON_REQUEST = frozenset((FeatureName.SEND_SURVIVES_SIGNALS,))

# KeyUpdate and padding are TLS 1.3's.
_TLS13_ONLY = frozenset((FeatureName.REKEY, FeatureName.RX_EXPECT_NO_PAD))

# For keys ENOPROTOOPT says that there is no TLS layer; here the layer is known to be there.
_REASONS = {
    errno.EBUSY: KEY_REASONS[errno.EBUSY],
    errno.ENOPROTOOPT: "this kernel does not know the option",
}
_OWN_REASONS = {
    FeatureName.IPV6: dict.fromkeys(
        (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL), "there is no IPv6 on loopback here"
    ),
    FeatureName.MPTCP: {errno.ENOPROTOOPT: "they take no TLS layer; plain TCP sockets do"},
}


def _has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, _IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def try_feature(name: FeatureName, suite: CipherSuite) -> Outcome:
    """Try one feature with a suite that is known to work both ways; never raises."""
    if name in _TLS13_ONLY and suite.version is not Version.TLS13:
        return NOT_TRIED
    if name is FeatureName.MPTCP and not _has_mptcp():
        return NOT_TRIED

    def body(near: socket.socket, far: socket.socket) -> Outcome:
        secret = TrafficSecret(secret=os.urandom(suite.hash_size), suite=suite)
        is_tls13 = suite.version is Version.TLS13
        key = secret.derive_key() if is_tls13 else random_key(suite)
        bench = _Bench(near=near, far=far, suite=suite, secret=secret, key=key)
        reasons = _REASONS | _OWN_REASONS.get(name, {})
        return attempt(functools.partial(_TRIALS[name], bench), reasons)

    return on_pair(body, lambda outcome: outcome)


def probe_features(suite: CipherSuite, asked: Collection[FeatureName] = ()) -> tuple[Feature, ...]:
    """Try every feature with a suite that is known to work both ways, TLS 1.3's if any.

    Never raises. Most of its time is the wait for poll's silence, 50 ms.

    Args:
        suite: what keys are for.
        asked: which of `ON_REQUEST` to try too.
    """
    left_out = ON_REQUEST.difference(asked)
    return tuple(
        Feature(name=name, outcome=NOT_TRIED if name in left_out else try_feature(name, suite))
        for name in FeatureName
    )
