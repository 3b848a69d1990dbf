"""modprobe's configuration: the lines that matter, where they stand, and a module's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktlsgate.kernel.module_rules import ModuleRule, has_module_file, read_module_rules


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="latin-1")


def test_lines_that_keep_a_module_out_are_found_in_order(tmp_path) -> None:
    write(tmp_path, "lib/modprobe.d/z.conf", "blacklist  tls # why\n")
    write(tmp_path, "etc/modprobe.d/b.conf", "# install tls no\ninstall tls   /bin/false\n")
    write(
        tmp_path, "etc/modprobe.d/a.conf", "\nalias tls x\nblacklist\nblacklist ccm\nremove tls\n"
    )
    write(tmp_path, "etc/modprobe.d/c.txt", "blacklist gcm\n")
    assert read_module_rules(tmp_path) == (
        ModuleRule(module="ccm", text="blacklist ccm", path="/etc/modprobe.d/a.conf"),
        ModuleRule(module="tls", text="install tls /bin/false", path="/etc/modprobe.d/b.conf"),
        ModuleRule(module="tls", text="blacklist tls # why", path="/lib/modprobe.d/z.conf"),
    )
    assert str(read_module_rules(tmp_path)[0]) == "`blacklist ccm` in /etc/modprobe.d/a.conf"


def test_a_linked_folder_is_told_once(tmp_path) -> None:
    write(tmp_path, "usr/lib/modprobe.d/a.conf", "blacklist tls\n")
    (tmp_path / "lib").symlink_to("usr/lib")
    assert [rule.path for rule in read_module_rules(tmp_path)] == ["/usr/lib/modprobe.d/a.conf"]


def test_what_cannot_be_read_says_nothing(tmp_path) -> None:
    assert read_module_rules(tmp_path) == ()
    (tmp_path / "etc/modprobe.d/folder.conf").mkdir(parents=True)
    write(tmp_path, "etc/modprobe.d/nonsense.conf", "\xff\xfe\nblacklist tlsx\n")
    assert read_module_rules(tmp_path) == ()


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("modules.dep", "kernel/net/tls/tls.ko: kernel/crypto/aead.ko\n", True),
        ("modules.dep", "kernel/net/tls/tls.ko.zst:\n", True),
        ("modules.builtin", "kernel/net/tls/tls.ko\n", True),
        ("modules.dep", "kernel/drivers/nvme.ko: kernel/net/tls/tls.ko\n", False),
        ("modules.dep", "", False),
        ("modules.order", "kernel/net/tls/tls.ko\n", None),
    ],
)
def test_a_modules_file_is_looked_up_in_modprobes_lists(tmp_path, name, text, answer) -> None:
    write(tmp_path, f"lib/modules/7.2.7/{name}", text)
    assert has_module_file("7.2.7", tmp_path) is answer
    assert has_module_file("7.2.8", tmp_path) is None
