"""Every symptom that the probe explains, produced for real where it can be.

Here what the kernel answers and how it is told; in `test_advice.py` the same through the
whole probe, whose advice is then followed. What cannot be produced: ENOMEM for keys (the
kernel asks for less than a page), an LSM's EACCES, and FIPS mode.
"""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from helpers.ktls import TLS13, kernel_table, ktls_pair, require_ktls
from helpers.probing import run_probe

from ktlsgate.errors import KtlsUnavailable
from ktlsgate.kernel.features import FeatureName, random_key
from ktlsgate.kernel.ktls import KEY_REASONS, SOL_TLS, TLS_TX, attach_ulp, install_tx
from ktlsgate.kernel.probe import probe_kernel
from ktlsgate.kernel.system import read_system_facts
from ktlsgate.kernel.trials import attempt, loopback_pair
from ktlsgate.wire.ciphers import Version
from ktlsgate.wire.crypto_info import TxCryptoInfo

IPPROTO_MPTCP = 262  # linux/in.h; Python's socket module has no name for it before 3.12

NO_MODULE = "the kernel has no tls module, or modprobe is told not to load it (ENOENT)"
NOT_LOADED = (
    "the tls module is not loaded, and this process may not load it: that takes"
    " CAP_NET_ADMIN in the first user namespace (ENOENT)"
)
ADVICE_NO_MODULE = (
    "Root could not load the module on demand: try `modprobe tls`; look for `install tls` or"
    " `blacklist tls` in /etc/modprobe.d; or run a kernel built with CONFIG_TLS."
)
ADVICE_LOAD = (
    "Load the module as root and keep it loaded: `modprobe tls`, and"
    " `echo tls > /etc/modules-load.d/tls.conf`."
)
ADVICE_NO_FILE = (
    "There is no tls module for this kernel in /lib/modules/{}: install the package that brings"
    " this kernel's modules, or run a kernel built with CONFIG_TLS."
)


def refusal(sock: socket.socket) -> KtlsUnavailable:
    with pytest.raises(KtlsUnavailable) as caught:
        attach_ulp(sock)
    return caught.value


# The upper layer protocol, on any kernel.


def test_a_kernel_without_the_module_is_told_from_one_that_nobody_loaded() -> None:
    """ENOENT: to root there is none; to others, nobody loaded it."""
    if kernel_table().ulp.ok:
        pytest.skip("this kernel has kTLS")
    report = run_probe()
    facts = read_system_facts()
    may_load = facts.may_load_modules
    reason, advice = (NO_MODULE, ADVICE_NO_MODULE) if may_load else (NOT_LOADED, ADVICE_LOAD)
    if facts.has_module_file is False and not facts.is_container:
        reason = "there is no tls module for this kernel (ENOENT)"
        advice = ADVICE_NO_FILE.format(facts.kernel)
    assert report["ulp"]["errno"] == "ENOENT"
    assert report["ulp"]["reason"] == reason
    assert advice in report["advice"]
    assert report["exit_code"] == 3
    assert {mode["mode"] for mode in report["modes"]} == {"relay"}


def test_an_mptcp_socket_knows_no_upper_layers() -> None:
    """ENOPROTOOPT; a plain TCP socket of the same kernel answers something else."""
    try:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as exc:
        pytest.skip(f"this kernel has no MPTCP: {exc.strerror}")
    with listener, socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP) as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            refused = refusal(accepted)
    assert refused.errno == errno.ENOPROTOOPT
    assert str(refused) == (
        "cannot attach the TLS layer: not a Linux TCP socket that knows upper layer protocols"
        " (sandbox, MPTCP) (ENOPROTOOPT)"
    )


def test_a_unix_socket_is_no_tcp_socket() -> None:
    near, far = socket.socketpair()
    with near, far:
        refused = refusal(near)
    assert refused.errno == errno.ENOTSUP
    assert str(refused).startswith("cannot attach the TLS layer: not a TCP socket (")


# The upper layer protocol, where there is one.


@pytest.mark.ktls
def test_a_client_that_has_sent_its_end_is_no_fault_of_the_system() -> None:
    require_ktls()
    with loopback_pair() as (near, far):
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""  # the FIN has come
        refused = refusal(near)
    assert refused.errno == errno.ENOTCONN
    assert str(refused) == (
        "cannot attach the TLS layer: the socket is not established: the peer is gone or has"
        " half closed (ENOTCONN)"
    )


@pytest.mark.ktls
def test_attached_at_accept_the_same_client_is_served() -> None:
    """The remedy for the symptom above, and what the gate does."""
    require_ktls(TLS13)
    with loopback_pair() as (near, far):
        attach_ulp(near)
        far.shutdown(socket.SHUT_WR)
        assert near.recv(1) == b""
        install_tx(near, TxCryptoInfo(suite=TLS13, key=random_key(TLS13), rec_seq=0))


@pytest.mark.ktls
def test_a_listener_and_an_unconnected_socket_are_not_established() -> None:
    require_ktls()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as unconnected:
        assert refusal(listener).errno == refusal(unconnected).errno == errno.ENOTCONN


@pytest.mark.ktls
def test_a_layer_is_attached_once() -> None:
    require_ktls()
    with loopback_pair() as (near, _):
        attach_ulp(near)
        refused = refusal(near)
    assert refused.errno == errno.EEXIST
    assert str(refused).endswith("the socket has an upper layer protocol already (EEXIST)")


# Keys.


def install_raw(version: int, cipher: int, size: int = 40):
    """Hand the kernel a cipher that our table has not, as an `Outcome`."""
    with loopback_pair() as (near, _):
        attach_ulp(near)
        packed = struct.pack("=HH", version, cipher) + bytes(size - 4)
        return attempt(lambda: near.setsockopt(SOL_TLS, TLS_TX, packed), KEY_REASONS)


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("cipher", "size"),
    [(55, 40), (56, 40), (57, 40), (58, 56)],
    ids=["SM4-GCM", "SM4-CCM", "ARIA-128-GCM", "ARIA-256-GCM"],
)
def test_an_algorithm_that_the_kernel_was_built_without_is_named(cipher, size) -> None:
    require_ktls()
    version = Version.TLS13 if cipher < 57 else Version.TLS12  # ARIA is TLS 1.2's only
    outcome = install_raw(version, cipher, size)
    if outcome.ok:
        pytest.skip("this kernel has the algorithm")
    assert outcome.label == "ENOENT"
    assert outcome.reason == (
        "the kernel's crypto algorithm for this cipher is not available (ENOENT)"
    )


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("version", "cipher"), [(Version.TLS12, 99), (Version.TLS13, 57), (0x0305, 51)]
)
def test_a_cipher_or_version_that_the_kernel_does_not_know_is_named(version, cipher) -> None:
    require_ktls()
    outcome = install_raw(version, cipher)
    assert outcome.label == "EINVAL"
    assert outcome.reason == "the kernel does not know this cipher in this version (EINVAL)"


@pytest.mark.ktls
def test_keys_without_a_layer_are_named() -> None:
    require_ktls()
    info = TxCryptoInfo(suite=TLS13, key=random_key(TLS13), rec_seq=0)
    with loopback_pair() as (near, _):
        outcome = attempt(lambda: install_tx(near, info), KEY_REASONS)
    assert outcome.label == "ENOPROTOOPT"
    assert outcome.reason == "the socket has no TLS layer (ENOPROTOOPT)"


@pytest.mark.ktls
def test_a_kernel_that_cannot_rekey_says_so_and_the_probe_too() -> None:
    require_ktls(TLS13)
    rekey = probe_kernel().feature(FeatureName.REKEY)
    with ktls_pair(TLS13) as (sock, _):
        info = TxCryptoInfo(suite=TLS13, key=random_key(TLS13), rec_seq=0)
        outcome = attempt(lambda: install_tx(sock, info), KEY_REASONS)
    assert outcome.ok is rekey.ok
    if outcome.ok:
        pytest.skip("this kernel can rekey")
    assert rekey.label == outcome.label == "EBUSY"
    assert rekey.reason == "keys are set already, and this kernel cannot rekey (EBUSY)"
