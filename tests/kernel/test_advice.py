"""Every symptom through the whole probe: what it finds, what it advises, and that this helps.

Each test produces a symptom, checks the exact words, does what they say (the very command,
where they name one), probes again, and the symptom must be gone. Those that take modules
away run in the lab's guests alone, whose kernel is nobody else's, and put them back.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import mptcp, seccomp
from helpers.ktls import kernel_table, require_ktls
from helpers.probing import (
    NOBODY,
    command,
    commands_in,
    follow,
    is_guest,
    modprobe_rules,
    modules,
    run_module,
    run_probe,
)

from ktlsgate.wire.ciphers import KernelCipher, Version

FORBIDDEN = "the tls module is not loaded, and modprobe is told not to load it (ENOENT)"
NOT_LOADED = (
    "the tls module is not loaded, and this process may not load it: that takes"
    " CAP_NET_ADMIN in the first user namespace (ENOENT)"
)
LOAD = (
    "Load the module as root and keep it loaded: `modprobe tls`, and"
    " `echo tls > /etc/modules-load.d/tls.conf`."
)
TAKE_OUT = (
    "modprobe is told not to load {0}: take out `install {0} /bin/false` in"
    " /etc/modprobe.d/careful.conf, then `modprobe {0}`."
)
LISTED = (
    "modprobe is told not to load {0} on demand, by `blacklist {0}` in"
    " /etc/modprobe.d/careful.conf: `modprobe {0}` loads it all the same, until the next boot;"
    " take that line out, or list it in /etc/modules-load.d."
)
POLICY = "Allow setsockopt(TCP_ULP) in the seccomp or LSM profile that this process runs under."
PLAIN_TCP = (
    "TCP here knows no upper layer protocols (a sandbox's own TCP, or an MPTCP socket, as"
    " mptcpize makes them): run on a plain Linux kernel, with plain TCP listeners."
)
NO_KTLS_BUILD = (
    "This OpenSSL was built without kTLS, as those in the registry's wheels are: `engine ="
    ' "openssl"` hands nothing over. Two ways out: `engine = "direct"` installs the keys itself'
    " and needs none of OpenSSL's kTLS; or take the distribution's packages, whose OpenSSL is"
    " built with it: `apt install python3-openssl`, and a Python that sees them: `python3 -m"
    " venv --system-site-packages DIR`."
)
HALF_OF_TLS13 = (
    "This OpenSSL (older than 3.2) gives the kernel only the sending key of TLS 1.3: with"
    ' `engine = "openssl"` those connections are handed over for sending only.'
    ' `engine = "direct"` installs both keys; so does OpenSSL 3.2 or later.'
)


def missing_algorithm(cipher: str, module: str) -> str:
    return (
        f"For {cipher} the kernel's crypto algorithm is missing: `modprobe {module}`; FIPS mode"
        " and stripped kernels forbid some."
    )


def offloads(report: dict, engine: str) -> dict[str, str]:
    return {t["version"]: t["offload"] for t in report["engines"] if t["engine"] == engine}


BOTH = {"TLSv1.3": "both", "TLSv1.2": "both"}
NONE = {"TLSv1.3": "none", "TLSv1.2": "none"}


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


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A copy of /etc that can be written."""
    copy = tmp_path / "etc"
    shutil.copytree("/etc", copy, symlinks=True)
    (copy / "modules-load.d").mkdir(exist_ok=True)  # systemd brings it
    return copy


# The module.


@pytest.mark.ktls
def test_a_user_has_the_module_loaded_by_root_now_and_at_the_next_boot(guest, etc) -> None:
    command("rmmod", "tls")
    report = run_probe(user=NOBODY)
    assert report["ulp"] == {"ok": False, "errno": "ENOENT", "reason": NOT_LOADED}
    assert report["summary"] == f"no kTLS here: relaying, because {NOT_LOADED}"
    assert report["advice"][0] == LOAD
    assert report["system"]["tls_module_loaded"] is False
    assert report["system"]["net_admin"] is False
    assert report["counters"] == {"moved": None, "proof": None}
    assert report["exit_code"] == 3
    assert offloads(report, "direct") == NONE

    assert follow(report["advice"][0], etc) == [
        "modprobe tls",
        "echo tls > /etc/modules-load.d/tls.conf",
    ]
    for _ in ("now", "after a boot, which loads what is listed"):
        after = run_probe(user=NOBODY)
        assert (after["exit_code"], after["ulp"]["ok"]) == (0, True)
        assert LOAD not in after["advice"]
        assert offloads(after, "direct") == BOTH
        assert after["counters"]["proof"]["ok"]
        command("rmmod", "tls")
        command("modprobe", *(etc / "modules-load.d/tls.conf").read_text().split())


@pytest.mark.ktls
def test_root_of_a_container_is_told_the_same_and_it_helps(guest, etc) -> None:
    wrapper = ("unshare", "--user", "--map-root-user")
    command("rmmod", "tls")
    report = run_probe(wrapper=wrapper)
    assert report["system"]["uid"] == 0
    assert report["system"]["net_admin"] is True
    assert report["system"]["first_user_namespace"] is False
    assert report["ulp"]["reason"] == NOT_LOADED
    assert report["advice"][0] == LOAD
    follow(report["advice"][0], etc)
    assert run_probe(wrapper=wrapper)["exit_code"] == 0


@pytest.mark.ktls
def test_root_loads_the_module_by_asking(guest) -> None:
    """No symptom, and the counters start from nothing."""
    command("rmmod", "tls")
    report = run_probe()
    assert report["exit_code"] == 0
    assert "tls" in modules()
    assert report["counters"]["proof"]["ok"]


@pytest.mark.ktls
def test_root_takes_out_the_line_that_the_probe_found(guest) -> None:
    command("rmmod", "tls")
    with modprobe_rules("install tls /bin/false") as file:
        report = run_probe()
        assert report["ulp"] == {"ok": False, "errno": "ENOENT", "reason": FORBIDDEN}
        assert report["system"]["module_rules"] == [f"`install tls /bin/false` in {file}"]
        assert report["system"]["tls_module_file"] is True
        assert report["advice"][0] == TAKE_OUT.format("tls")
        assert report["exit_code"] == 3
        file.write_text("")  # the line is out
        assert follow(report["advice"][0]) == ["modprobe tls"]
        after = run_probe()
    assert (after["exit_code"], after["system"]["module_rules"]) == (0, [])
    assert TAKE_OUT.format("tls") not in after["advice"]


@pytest.mark.ktls
def test_a_listed_module_is_loaded_by_name(guest) -> None:
    """``blacklist`` stops the kernel's own asking; people may."""
    command("rmmod", "tls")
    with modprobe_rules("blacklist tls"):
        report = run_probe()
        assert report["ulp"]["reason"] == FORBIDDEN
        assert report["advice"][0] == LISTED.format("tls")
        assert follow(report["advice"][0]) == ["modprobe tls"]
        after = run_probe()
    assert (after["exit_code"], after["ulp"]["ok"]) == (0, True)
    assert LISTED.format("tls") not in after["advice"]


@pytest.mark.ktls
def test_a_kernel_without_the_file_is_told_which_package_is_missing(guest, tmp_path) -> None:
    """The folder of the kernel's modules is hidden; as when its package is not installed."""
    release = os.uname().release
    command("rmmod", "tls")
    command("mount", "-t", "tmpfs", "tmpfs", f"/lib/modules/{release}")
    try:
        Path(f"/lib/modules/{release}/modules.dep").write_text("")
        report = run_probe()
    finally:
        command("umount", f"/lib/modules/{release}")  # the advice: the package is there again
    assert report["system"]["tls_module_file"] is False
    assert report["ulp"]["reason"] == "there is no tls module for this kernel (ENOENT)"
    assert report["advice"][0] == (
        f"There is no tls module for this kernel in /lib/modules/{release}: install the package"
        " that brings this kernel's modules, or run a kernel built with CONFIG_TLS."
    )
    assert run_probe()["exit_code"] == 0


# Algorithms.

ALGORITHMS = {
    "ccm": {KernelCipher.AES_CCM_128},
    "chacha20poly1305": {KernelCipher.CHACHA20_POLY1305},
    "gcm": {KernelCipher.AES_GCM_128, KernelCipher.AES_GCM_256},
}


def labels(ciphers: set[KernelCipher]) -> str:
    return ", ".join(
        f"{version.label} {cipher.name}"
        for version in reversed(Version)
        for cipher in sorted(ciphers, key=lambda cipher: cipher.name)
    )


@pytest.mark.ktls
@pytest.mark.parametrize("rule", ["install {} /bin/false", "blacklist {}"], ids=["install", "list"])
@pytest.mark.parametrize("module", sorted(ALGORITHMS))
def test_a_missing_algorithm_is_named_and_its_module_brings_it_back(guest, module, rule) -> None:
    if module not in modules():
        pytest.skip(f"{module} is built in")
    command("rmmod", module)
    names = {cipher.name for cipher in ALGORITHMS[module]}
    line = missing_algorithm(labels(ALGORITHMS[module]), module)
    with modprobe_rules(rule.format(module)) as file:
        report = run_probe()
        for row in report["ciphers"]:
            is_missing = row["cipher"] in names
            assert row["offload"] == ("none" if is_missing else "both")
            assert (row["tx"]["errno"] == "ENOENT") is is_missing
        # Clients agree on AES-GCM, so without it nothing that counts is handed over.
        assert report["exit_code"] == (3 if module == "gcm" else 0)
        at = report["advice"].index(line)
        because = TAKE_OUT if rule.startswith("install") else LISTED
        assert report["advice"][at + 1] == because.format(module)
        if because is TAKE_OUT:
            file.write_text("")
        assert follow(line) == [f"modprobe {module}"]
        after = run_probe()
    assert line not in after["advice"]
    assert after["exit_code"] == 0
    assert {row["offload"] for row in after["ciphers"]} == {"both"}


# Sockets and policies.


def test_mptcps_sockets_are_named_and_plain_ones_help() -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, mptcp.IPPROTO_MPTCP).close()
    except OSError as exc:
        pytest.skip(f"this kernel has no MPTCP: {exc.strerror}")
    report = run_module(mptcp.__file__)
    assert report["ulp"] == {
        "ok": False,
        "errno": "ENOPROTOOPT",
        "reason": "not a Linux TCP socket that knows upper layer protocols (sandbox, MPTCP)"
        " (ENOPROTOOPT)",
    }
    assert report["advice"][0] == PLAIN_TCP
    assert report["exit_code"] == 3
    after = run_probe()  # the advice: the same with plain TCP
    assert after["ulp"]["errno"] != "ENOPROTOOPT"
    assert PLAIN_TCP not in after["advice"]
    assert after["ulp"]["ok"] is kernel_table().ulp.ok


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSYS])
def test_a_system_call_filter_is_named_and_one_that_allows_helps(code) -> None:
    if platform.machine() not in seccomp.MACHINES:
        pytest.skip(f"the test's filter is not made for {platform.machine()}")
    wrapper = (sys.executable, "-B", seccomp.__file__)
    tried = subprocess.run(
        [*wrapper, str(code), "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no system call filter here: {tried.stderr.splitlines()[-1]}")
    report = run_probe(wrapper=(*wrapper, str(code)))
    words = "a system call filter" if code == errno.ENOSYS else "a security policy"
    name = errno.errorcode[code]
    assert report["ulp"] == {"ok": False, "errno": name, "reason": f"forbidden by {words} ({name})"}
    assert report["advice"][0] == POLICY
    assert report["system"]["seccomp"] == 2
    assert report["exit_code"] == 3
    after = run_probe(wrapper=(*wrapper, "0"))  # the advice: a profile that allows it
    assert after["system"]["seccomp"] == 2
    assert POLICY not in after["advice"]
    assert after["ulp"]["ok"] is kernel_table().ulp.ok


# OpenSSL.


@pytest.mark.ktls
def test_an_openssl_without_ktls_has_two_ways_out_and_both_help(tmp_path) -> None:
    """The registry's wheels: engine `direct`, or the distribution's packages."""
    require_ktls()
    report = run_probe("--require", "openssl")
    if report["openssl"]["has_ktls"]:
        pytest.skip(f"{report['openssl']['library']} was built with kTLS")
    assert report["advice"][0] == NO_KTLS_BUILD
    assert offloads(report, "openssl") == NONE
    assert {each["name"] for each in report["required"]["missing"]} == {
        "engine openssl TLSv1.3",
        "engine openssl TLSv1.2",
    }
    assert report["comparisons"] == [
        {"version": v, "better": "direct", "reason": "this OpenSSL was built without kTLS"}
        for v in BOTH
    ]
    assert report["exit_code"] == 1

    # The first way out, with the same libraries.
    assert offloads(report, "direct") == BOTH
    assert run_probe("--require", "direct")["exit_code"] == 0
    assert run_probe()["exit_code"] == 0

    # The second one.
    if subprocess.run(
        ["dpkg", "-s", "python3-openssl"], capture_output=True, check=False
    ).returncode:
        pytest.skip("python3-openssl is not installed: the second way out was not tried")
    (line,) = commands_in(NO_KTLS_BUILD)
    words = (
        line.replace("DIR", str(tmp_path / "venv")).replace("python3", "/usr/bin/python3").split()
    )
    command(*words, "--without-pip")  # to copy pip takes a minute in a guest
    after = run_probe("--require", "openssl,1.2", python=str(tmp_path / "venv/bin/python3"))
    assert (after["exit_code"], after["openssl"]["has_ktls"]) == (0, True)
    assert NO_KTLS_BUILD not in after["advice"]


@pytest.mark.ktls
def test_an_openssl_that_gives_half_of_tls13_is_named_and_engine_direct_gives_all() -> None:
    require_ktls()
    report = run_probe("--require", "openssl")
    if offloads(report, "openssl")["TLSv1.3"] != "tx":
        pytest.skip(f"{report['openssl']['library']} gives all or nothing")
    assert report["advice"][0] == HALF_OF_TLS13
    assert report["required"]["missing"] == [
        {
            "name": "engine openssl TLSv1.3",
            "reason": "rx: OpenSSL did not give the receiving key to the kernel",
        }
    ]
    assert report["comparisons"] == [
        {"version": "TLSv1.3", "better": "direct", "reason": "this OpenSSL is older than 3.2"},
        {"version": "TLSv1.2", "better": None, "reason": ""},
    ]
    assert offloads(report, "direct") == BOTH  # the advice
    assert run_probe("--require", "direct")["exit_code"] == 0
    assert run_probe("--require", "openssl,tx")["exit_code"] == 0


@pytest.mark.ktls
def test_an_openssl_with_all_of_it_gives_no_cause_for_advice() -> None:
    require_ktls()
    report = run_probe("--require", "openssl")
    if report["required"]["missing"]:
        pytest.skip(f"{report['openssl']['library']} does not give it all")
    assert [each["better"] for each in report["comparisons"]] == [None, None]
    assert [line for line in report["advice"] if line.startswith("This OpenSSL")] == []
