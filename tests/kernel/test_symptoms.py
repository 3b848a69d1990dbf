"""Every symptom that the probe explains, produced for real where it can be.

Those that need modules taken away run in the lab's guests alone (user-mode Linux, whose
kernel is nobody else's), and put them back; after each, the advice is followed and the
symptom must be gone. What cannot be produced: ENOMEM for keys (the kernel asks for less
than a page), an LSM's EACCES, and FIPS mode.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import seccomp
from helpers.ktls import TLS13, kernel_table, ktls_pair, require_ktls

import ktlsgate
from ktlsgate.errors import KtlsUnavailable
from ktlsgate.kernel.engines import Engine
from ktlsgate.kernel.features import FeatureName, random_key
from ktlsgate.kernel.ktls import KEY_REASONS, SOL_TLS, TLS_TX, attach_ulp, install_tx
from ktlsgate.kernel.openssl_probe import probe_openssl
from ktlsgate.kernel.probe import probe_kernel
from ktlsgate.kernel.system import read_system_facts
from ktlsgate.kernel.trials import attempt, loopback_pair
from ktlsgate.service.probe_advice import advise
from ktlsgate.service.probe_findings import Findings, collect_findings
from ktlsgate.wire.ciphers import KernelCipher, Version
from ktlsgate.wire.crypto_info import TxCryptoInfo

ROOT = str(Path(ktlsgate.__file__).parent.parent)
IPPROTO_MPTCP = 262  # linux/in.h; Python's socket module has no name for it before 3.12
NOBODY = 65534

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
ADVICE_POLICY = (
    "Allow setsockopt(TCP_ULP) in the seccomp or LSM profile that this process runs under."
)


def run_probe(*wrapper: str, user: int | None = None) -> dict:
    """The probe's JSON, from a process of its own."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-B", "-m", "ktlsgate", "probe", "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": ROOT},
        user=user,
        group=user,
        extra_groups=None if user is None else [],
    )
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode
    return report


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
    may_load = read_system_facts().may_load_modules
    assert report["ulp"]["errno"] == "ENOENT"
    assert report["ulp"]["reason"] == (NO_MODULE if may_load else NOT_LOADED)
    assert report["advice"][0] == (ADVICE_NO_MODULE if may_load else ADVICE_LOAD)
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


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_system_call_filter_is_named(code) -> None:
    if platform.machine() not in seccomp.MACHINES:
        pytest.skip(f"the test's filter is not made for {platform.machine()}")
    wrapper = (sys.executable, "-B", seccomp.__file__, str(code))
    tried = subprocess.run([*wrapper, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no system call filter here: {tried.stderr.splitlines()[-1]}")
    report = run_probe(*wrapper)
    words = "a system call filter" if code == errno.ENOSYS else "a security policy"
    name = errno.errorcode[code]
    assert report["ulp"] == {"ok": False, "errno": name, "reason": f"forbidden by {words} ({name})"}
    assert report["advice"][0] == ADVICE_POLICY
    assert report["system"]["seccomp"] == 2
    assert report["exit_code"] == 3


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


# OpenSSL.


@pytest.mark.ktls
def test_an_openssl_without_ktls_is_known_by_its_sockets_and_does_not_matter() -> None:
    """The registry's wheels; the gate's own engine needs nothing of them."""
    require_ktls(TLS13)
    report = probe_openssl(kernel_table())
    if report.has_ktls:
        pytest.skip(f"{report.libraries.openssl} was built with kTLS")
    assert report.problem == ""
    assert report.has_ktls is False
    for version in Version:
        own, direct = (report.trial(engine, version) for engine in (Engine.OPENSSL, Engine.DIRECT))
        assert own.reason == "OpenSSL did not give the sending key to the kernel"
        assert direct.reason == ""
    findings = Findings(capabilities=probe_kernel(), openssl=report)
    assert findings.exit_code == 0
    (line,) = [each for each in advise(findings) if each.startswith("This OpenSSL")]
    assert line == (
        "This OpenSSL was built without kTLS, as those in the registry's wheels are. The gate does"
        " not mind: engine `direct` installs the keys itself."
    )


@pytest.mark.ktls
def test_an_openssl_that_gives_half_of_tls13_is_named() -> None:
    require_ktls(TLS13)
    found = collect_findings()
    trial = found.openssl.trial(Engine.OPENSSL, Version.TLS13)
    if not trial.tx.ok or trial.rx.ok:
        pytest.skip(f"{found.openssl.libraries.openssl} gives all or nothing")
    assert trial.reason == "OpenSSL did not give the receiving key to the kernel"
    (line,) = [each for each in advise(found) if each.startswith("This OpenSSL")]
    assert line.startswith("This OpenSSL (older than 3.2) gives the kernel only the sending key")


# Modules taken away: in the lab's guests alone.


def is_guest() -> bool:
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text()


def modules() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def command(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


@pytest.fixture
def guest():
    """A kernel that is nobody else's; afterwards it has its modules again."""
    if not is_guest() or os.geteuid() != 0:
        pytest.skip("takes modules away: in the lab's guests only")
    before = modules()
    if "tls" not in before:
        pytest.skip("tls is built in, or absent")
    try:
        yield
    finally:
        for name in before - modules():
            command("modprobe", name)


@contextlib.contextmanager
def forbidden(*names: str):
    """Tell modprobe not to load modules, as a careful administrator would."""
    command("mount", "-t", "tmpfs", "tmpfs", "/etc/modprobe.d")
    try:
        lines = (f"install {name} /bin/false\n" for name in names)
        Path("/etc/modprobe.d/no.conf").write_text("".join(lines))
        yield
    finally:
        command("umount", "/etc/modprobe.d")


@pytest.mark.ktls
def test_an_unprivileged_process_is_told_that_nobody_loaded_the_module(guest) -> None:
    command("rmmod", "tls")
    report = run_probe(user=NOBODY)
    assert report["ulp"] == {"ok": False, "errno": "ENOENT", "reason": NOT_LOADED}
    assert report["advice"][0] == ADVICE_LOAD
    assert report["system"]["tls_module_loaded"] is False
    assert report["system"]["net_admin"] is False
    assert report["counters"] == {"moved": None, "proof": None}
    command("modprobe", "tls")  # the advice
    report = run_probe(user=NOBODY)
    assert (report["exit_code"], report["ulp"]["ok"]) == (0, True)
    assert ADVICE_LOAD not in report["advice"]
    assert report["counters"]["proof"]["ok"]


@pytest.mark.ktls
def test_root_of_a_container_is_told_the_same(guest) -> None:
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    command("rmmod", "tls")
    report = run_probe("unshare", "--user", "--map-root-user")
    assert report["system"]["uid"] == 0
    assert report["system"]["net_admin"] is True
    assert report["system"]["first_user_namespace"] is False
    assert report["ulp"]["reason"] == NOT_LOADED
    assert report["advice"][0] == ADVICE_LOAD


@pytest.mark.ktls
def test_root_loads_the_module_by_asking(guest) -> None:
    """No symptom, and the counters start from nothing."""
    command("rmmod", "tls")
    report = run_probe()
    assert report["exit_code"] == 0
    assert "tls" in modules()
    assert report["counters"]["proof"]["ok"]


@pytest.mark.ktls
def test_root_is_told_of_a_module_that_modprobe_may_not_load(guest) -> None:
    command("rmmod", "tls")
    with forbidden("tls"):
        report = run_probe()
        assert report["ulp"] == {"ok": False, "errno": "ENOENT", "reason": NO_MODULE}
        assert report["advice"][0] == ADVICE_NO_MODULE
        assert report["exit_code"] == 3
    # The advice: the line is out of /etc/modprobe.d.
    assert run_probe()["exit_code"] == 0


@pytest.mark.ktls
@pytest.mark.parametrize(
    ("module", "cipher"),
    [("chacha20poly1305", KernelCipher.CHACHA20_POLY1305), ("ccm", KernelCipher.AES_CCM_128)],
)
def test_a_missing_crypto_module_is_named_and_costs_its_cipher_only(guest, module, cipher) -> None:
    if module not in modules():
        pytest.skip(f"{module} is built in")
    command("rmmod", module)
    with forbidden(module):
        report = run_probe()
    labels = [f"{version.label} {cipher.name}" for version in reversed(Version)]
    for row in report["ciphers"]:
        is_missing = row["cipher"] == cipher.name
        assert row["offload"] == ("none" if is_missing else "both")
        assert (row["tx"]["errno"] == "ENOENT") is is_missing
    line = (
        f"For {', '.join(labels)} the kernel's crypto algorithm is missing: `modprobe gcm`,"
        " `modprobe ccm` or `modprobe chacha20poly1305`; FIPS mode and stripped kernels forbid"
        " some."
    )
    assert line in report["advice"]
    assert report["exit_code"] == 0
    command("modprobe", module)  # the advice
    report = run_probe()
    assert line not in report["advice"]
    assert {row["offload"] for row in report["ciphers"]} == {"both"}
