"""Facts from /proc: read where they are, unknown where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ktlsgate.kernel.system import SystemFacts, read_system_facts

FILES = {
    "proc/self/status": "Name:\tpython\nCapEff:\t000001ffffffffff\nSeccomp:\t2\n",
    "proc/self/uid_map": "         0          0 4294967295\n",
    "proc/sys/net/ipv4/tcp_available_ulp": "espintcp mptcp tls\n",
    "proc/modules": "ipv6 1 0 - Live 0x0\ntls 69632 3 - Live 0x0\n",
    "proc/net/tls_stat": "",
}


def machine(root: Path, **changes: str | None) -> Path:
    """Write a /proc; a change is a file's last part, None takes the file away."""
    for path, text in FILES.items():
        changed = changes.get(path.rpartition("/")[2], text)
        if changed is not None:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(changed, encoding="latin-1")
    return root


def test_a_whole_proc_is_read(tmp_path) -> None:
    uname = os.uname()
    assert read_system_facts(machine(tmp_path)) == SystemFacts(
        kernel=uname.release,
        build=uname.version,
        machine=uname.machine,
        uid=os.geteuid(),
        capabilities=0x1FFFFFFFFFF,
        is_first_user_namespace=True,
        seccomp=2,
        available_ulps=("espintcp", "mptcp", "tls"),
        is_module_loaded=True,
        has_tls_stat=True,
        is_container=False,
    )


def test_without_proc_everything_is_unknown_and_nothing_raises(tmp_path) -> None:
    facts = read_system_facts(tmp_path)
    assert facts.has_net_admin is None
    assert facts.is_first_user_namespace is None
    assert facts.seccomp is None
    assert facts.available_ulps is None
    assert facts.is_module_loaded is None
    assert not facts.has_tls_stat
    assert facts.module_rules == ()
    assert facts.has_module_file is None


@pytest.mark.parametrize(
    "status", ["", "CapEff", "CapEff:\nSeccomp:\n", "CapEff: zz\nSeccomp: zz\n", "\xff\xfe"]
)
def test_nonsense_in_proc_is_unknown(tmp_path, status) -> None:
    facts = read_system_facts(machine(tmp_path, status=status, uid_map="", modules="tlsx 1\n"))
    assert facts.has_net_admin is None
    assert facts.seccomp is None
    assert facts.is_first_user_namespace is False
    assert facts.is_module_loaded is False


def test_a_proc_file_that_is_a_folder_is_unknown(tmp_path) -> None:
    machine(tmp_path, modules=None)
    (tmp_path / "proc/modules").mkdir()
    assert read_system_facts(tmp_path).is_module_loaded is None


@pytest.mark.parametrize("mark", ["run/.containerenv", ".dockerenv"])
def test_a_containers_mark_is_seen(tmp_path, mark) -> None:
    (tmp_path / mark).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mark).touch()
    assert read_system_facts(tmp_path).is_container


@pytest.mark.parametrize(
    ("capabilities", "uid_map", "may"),
    [
        ("0000000000001000", FILES["proc/self/uid_map"], True),
        ("0000000000000000", FILES["proc/self/uid_map"], False),
        ("000001ffffffffff", "0 100000 65536\n", False),
        ("000001ffffffffff", None, True),
    ],
    ids=["net_admin", "user", "root of a container", "unknown namespace"],
)
def test_modules_are_loaded_for_net_admin_of_the_machine_only(
    tmp_path, capabilities, uid_map, may
) -> None:
    machine(tmp_path, status=f"CapEff:\t{capabilities}\n", uid_map=uid_map)
    assert read_system_facts(tmp_path).may_load_modules is may


def test_without_proc_the_uid_decides_who_may_load_modules(tmp_path) -> None:
    assert read_system_facts(tmp_path).may_load_modules is (os.geteuid() == 0)


def test_the_real_proc_can_be_read() -> None:
    assert read_system_facts().kernel == os.uname().release
