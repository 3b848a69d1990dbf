"""Attaching the ULP and installing keys: messages for each refusal, and the real thing."""

from __future__ import annotations

import errno
import socket

import pytest
from helpers.ktls import KERNEL_SUITES, TLS13, kernel_table, ktls_pair, require_ktls

from ktlsgate.config import Offload
from ktlsgate.errors import CipherUnsupported, KtlsUnavailable
from ktlsgate.kernel.ktls import (
    KEY_REASONS,
    SOL_TLS,
    TLS_RX,
    TLS_TX,
    ULP_REASONS,
    attach_ulp,
    has_rx,
    has_tx,
    install_rx,
    install_tx,
    rx_rec_seq,
    tx_rec_seq,
)
from ktlsgate.kernel.trials import loopback_pair
from ktlsgate.wire.crypto_info import RxCryptoInfo, TxCryptoInfo, parse_rec_seq
from ktlsgate.wire.key_schedule import AeadKey

KEY = AeadKey(key=bytes(range(16)), iv=bytes(range(100, 112)))
TX = TxCryptoInfo(suite=TLS13, key=KEY, rec_seq=7)
RX = RxCryptoInfo(suite=TLS13, key=KEY, rec_seq=9)


class FakeSocket:
    """Records options; refuses with an errno if it was given one."""

    def __init__(self, refusal: int = 0, answer: bytes = b"") -> None:
        self.refusal = refusal
        self.answer = answer
        self.options: list[tuple[int, int, bytes]] = []

    def setsockopt(self, level: int, option: int, value: bytes) -> None:
        if self.refusal:
            raise OSError(self.refusal, "the system's own words")
        self.options.append((level, option, value))

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        if self.refusal:
            raise OSError(self.refusal, "the system's own words")
        return self.answer[:size]


def test_attach_ulp_names_the_tls_protocol_to_tcp() -> None:
    sock = FakeSocket()
    attach_ulp(sock)
    assert sock.options == [(socket.IPPROTO_TCP, 31, b"tls")]


def test_keys_go_in_as_the_kernels_struct_in_their_own_direction() -> None:
    sock = FakeSocket()
    install_tx(sock, TX)
    install_rx(sock, RX)
    assert sock.options == [(282, 1, TX.pack()), (282, 2, RX.pack())]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOENT, "the kernel has no tls module, or nobody loaded it (ENOENT)"),
        (
            errno.ENOPROTOOPT,
            (
                "not a Linux TCP socket that knows upper layer protocols (sandbox, MPTCP)"
                " (ENOPROTOOPT)"
            ),
        ),
        (errno.ENOTSUP, f"not a TCP socket ({errno.errorcode[errno.ENOTSUP]})"),
        (
            errno.ENOTCONN,
            "the socket is not established: the peer is gone or has half closed (ENOTCONN)",
        ),
        (errno.EPERM, "forbidden by a security policy (EPERM)"),
        (errno.EACCES, "forbidden by a security policy (EACCES)"),
        (errno.ENOSYS, "forbidden by a system call filter (ENOSYS)"),
        (errno.EEXIST, "the socket has an upper layer protocol already (EEXIST)"),
        (errno.EIO, "the system's own words (EIO)"),
        (4242, "the system's own words (4242)"),
    ],
)
def test_a_refused_ulp_says_why_in_words(code: int, message: str) -> None:
    with pytest.raises(KtlsUnavailable) as caught:
        attach_ulp(FakeSocket(code))
    assert str(caught.value) == f"cannot attach the TLS layer: {message}"
    assert caught.value.errno == code
    assert not isinstance(caught.value, CipherUnsupported)
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOENT, "the kernel's crypto algorithm for this cipher is not available (ENOENT)"),
        (errno.EINVAL, "the kernel does not know this cipher in this version (EINVAL)"),
        (errno.EBUSY, "keys are set already, and this kernel cannot rekey (EBUSY)"),
        (errno.ENOPROTOOPT, "the socket has no TLS layer (ENOPROTOOPT)"),
        (errno.ENOMEM, "the kernel has no memory for it (ENOMEM)"),
        (errno.EIO, "the system's own words (EIO)"),
    ],
)
def test_a_refused_key_says_why_and_in_which_direction(code: int, message: str) -> None:
    with pytest.raises(CipherUnsupported) as caught:
        install_tx(FakeSocket(code), TX)
    assert str(caught.value) == f"cannot install the sending key: {message}"
    with pytest.raises(CipherUnsupported) as caught:
        install_rx(FakeSocket(code), RX)
    assert str(caught.value) == f"cannot install the receiving key: {message}"
    assert caught.value.errno == code


def test_every_errno_in_the_tables_is_tested_above() -> None:
    """The two lists above are complete, so that a new row needs a new line there."""
    for test, table in (
        (test_a_refused_ulp_says_why_in_words, ULP_REASONS),
        (test_a_refused_key_says_why_and_in_which_direction, KEY_REASONS),
    ):
        (mark,) = test.pytestmark
        assert set(table) <= {code for code, _ in mark.args[1]}


def test_invariant_i5_no_message_holds_key_bytes() -> None:
    with pytest.raises(CipherUnsupported) as caught:
        install_tx(FakeSocket(errno.EINVAL), TX)
    for text in (str(caught.value), repr(caught.value), repr(TX)):
        assert KEY.key.hex() not in text
        assert repr(KEY.key)[2:-1] not in text


def test_has_tx_is_true_only_for_a_whole_answer() -> None:
    assert has_tx(FakeSocket(answer=b"\x04\x03\x33\x00more"))
    assert has_rx(FakeSocket(answer=b"\x04\x03\x33\x00more"))
    assert not has_tx(FakeSocket(answer=b""))


@pytest.mark.parametrize("code", [errno.EBUSY, errno.ENOTSUP, errno.ENOPROTOOPT])
def test_a_socket_without_keys_has_neither_direction(code: int) -> None:
    assert not has_tx(FakeSocket(code))
    assert not has_rx(FakeSocket(code))


def test_a_unix_socket_cannot_have_the_ulp() -> None:
    near, far = socket.socketpair()
    with near, far, pytest.raises(KtlsUnavailable) as caught:
        attach_ulp(near)
    assert caught.value.errno in {errno.ENOTSUP, errno.ENOPROTOOPT}


@pytest.mark.ktls
def test_the_ulp_must_be_attached_before_the_peers_fin_and_then_holds() -> None:
    """Why the gate attaches it at accept: short-lived clients send FIN behind their request."""
    require_ktls()
    with loopback_pair() as (sock, far):
        far.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        with pytest.raises(KtlsUnavailable, match="ENOTCONN"):
            attach_ulp(sock)
    with loopback_pair() as (sock, far):
        attach_ulp(sock)
        far.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        install_tx(sock, TX)
        install_rx(sock, RX)
        assert has_tx(sock)
        assert has_rx(sock)


@pytest.mark.ktls
def test_a_socket_with_the_ulp_and_no_keys_goes_on_in_plain_text() -> None:
    require_ktls()
    with loopback_pair() as (sock, far):
        attach_ulp(sock)
        sock.sendall(b"plain")
        assert far.recv(9) == b"plain"
        assert not has_tx(sock)
        assert not has_rx(sock)


@pytest.mark.ktls
def test_the_ulp_is_attached_once() -> None:
    require_ktls()
    with loopback_pair() as (sock, _):
        attach_ulp(sock)
        with pytest.raises(KtlsUnavailable, match="has an upper layer protocol already"):
            attach_ulp(sock)


@pytest.mark.ktls
def test_keys_need_the_ulp() -> None:
    require_ktls()
    with loopback_pair() as (sock, _), pytest.raises(CipherUnsupported, match="no TLS layer"):
        install_tx(sock, TX)


@pytest.mark.ktls
def test_each_direction_is_reported_by_itself() -> None:
    with ktls_pair(offload=Offload.TX) as (sock, _):
        assert has_tx(sock)
        assert not has_rx(sock)


@pytest.mark.ktls
@pytest.mark.parametrize("suite", KERNEL_SUITES, ids=lambda s: f"{s.version.name}-{s.cipher.name}")
def test_kernel_and_python_agree_on_every_cipher_in_both_directions(suite) -> None:
    with ktls_pair(suite, rec_seq=3) as (sock, peer):
        sock.sendall(b"from the kernel")
        assert peer.recv() == (23, b"from the kernel")
        peer.send(b"from Python")
        assert sock.recv(99) == b"from Python"
        size = len(TxCryptoInfo(suite=suite, key=peer.receives.key, rec_seq=0).pack())
        assert parse_rec_seq(sock.getsockopt(SOL_TLS, TLS_TX, size)) == 4
        assert parse_rec_seq(sock.getsockopt(SOL_TLS, TLS_RX, size)) == 4


def test_record_numbers_are_read_in_each_direction() -> None:
    with ktls_pair(TLS13, rec_seq=5) as (sock, peer):
        sock.sendall(b"x")
        assert tx_rec_seq(sock, TLS13.shape) == 6
        assert rx_rec_seq(sock, TLS13.shape) == 5
        peer.send(b"y")
        assert sock.recv(1) == b"y"
        assert rx_rec_seq(sock, TLS13.shape) == 6


@pytest.mark.parametrize("suite", [TLS13, *KERNEL_SUITES], ids=lambda suite: suite.name)
def test_keys_are_replaced_where_the_probe_says_so_and_refused_elsewhere(suite) -> None:
    with ktls_pair(suite) as (sock, peer):
        following = TxCryptoInfo(suite=suite, key=peer.receives.key, rec_seq=0)
        if suite.version is TLS13.version and kernel_table().can_rekey:
            install_tx(sock, following)
            sock.sendall(b"x")
            assert peer.recv() == (23, b"x")
            return
        with pytest.raises(CipherUnsupported) as caught:
            install_tx(sock, following)
        assert caught.value.errno == errno.EBUSY
        sock.sendall(b"x")
        assert peer.recv() == (23, b"x")
