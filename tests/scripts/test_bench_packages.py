"""Programs of another release: what is asked of apt, and what of them ends up where."""

import os
import stat
from pathlib import Path

import pytest
from bench import packages
from bench.machine import BenchError
from bench.packages import download_command, list_libraries, make_newest, unpack_packages

LISTED = """\
\tlibssl.so.3 => /root-of-suite/usr/lib/x86_64-linux-gnu/libssl.so.3 (0x00007f0000000000)
\tlibc.so.6 => /root-of-suite/usr/lib/x86_64-linux-gnu/libc.so.6 (0x00007f0000000000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0000000000)
"""


def test_packages_come_from_the_roots_own_lists_and_nothing_is_written_there():
    command = download_command(Path("/root-of-suite"), Path("/ours"), ["nginx", "haproxy"])
    assert command[-5:] == [
        "--download-only", "--no-install-recommends", "--yes", "nginx", "haproxy",
    ]  # fmt: skip
    for option in ("Dir=/root-of-suite", "Dir::Cache=/ours", "Dir::Log=/ours",
                   "Dir::State::status=/root-of-suite/var/lib/dpkg/status",
                   "Debug::NoLocking=1"):  # fmt: skip
        assert command[command.index(option) - 1] == "-o"


def test_libraries_are_found_in_what_the_loader_lists():
    folder = Path("/root-of-suite/usr/lib/x86_64-linux-gnu")
    assert list_libraries(LISTED) == [folder / "libssl.so.3", folder / "libc.so.6"]


def test_a_library_that_is_missing_is_named():
    with pytest.raises(BenchError, match=r"^no library liblua5\.4\.so\.0$"):
        list_libraries("\tliblua5.4.so.0 => not found\n" + LISTED)


def write_program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(stat.S_IRWXU)
    return file


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """Put an apt-get and a dpkg of ours in front of the machine's."""
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    write_program(
        folder / "dpkg", 'mkdir -p "$3/usr/sbin"; cp "$2" "$3/usr/sbin/$(basename "$2" .deb)"'
    )
    return folder / "apt-get"


def test_every_package_that_was_downloaded_is_unpacked(apt, tmp_path):
    folder = tmp_path / "ours"
    files = f"{folder}/cache/archives"
    write_program(apt, f"echo 1 >{files}/nginx.deb; echo 2 >{files}/haproxy.deb")
    unpacked = unpack_packages(Path("/root-of-suite"), folder, ["nginx", "haproxy"])
    assert unpacked == folder / "unpacked"
    assert (unpacked / "usr/sbin/nginx").read_text() == "1\n"
    assert (unpacked / "usr/sbin/haproxy").read_text() == "2\n"


@pytest.mark.parametrize("text", ["echo no network >&2; exit 100", "echo no network >&2"])
def test_a_download_that_fails_or_brings_nothing_is_an_error_with_its_words(apt, tmp_path, text):
    write_program(apt, text)
    with pytest.raises(BenchError, match=r"^nginx cannot be had: no network$"):
        unpack_packages(Path("/root-of-suite"), tmp_path / "ours", ["nginx"])


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A root with a loader of ours, that lists one library for each program."""
    root = tmp_path / "root"
    library = root / "libone.so"
    listing = f'test "$3" = --list && echo "libone.so => {library} (0x0)" || exit 0'
    write_program(root / packages._LOADER, listing)
    library.write_text("a library")
    monkeypatch.setattr(packages, "_find_root", lambda suite: root)
    return root


def test_the_newest_folder_has_loader_libraries_and_programs(apt, suite, tmp_path):
    folder = tmp_path / "ours"
    files = f"{folder}/cache/archives"
    write_program(apt, f"echo 1 >{files}/nginx.deb; echo 2 >{files}/haproxy.deb")
    floor = write_program(tmp_path / "programs" / "floor", "")
    assert make_newest(folder, [floor]) == folder
    assert sorted(file.name for file in (folder / "bin").iterdir()) == ["floor", "haproxy", "nginx"]
    assert [file.name for file in (folder / "lib").iterdir()] == ["libone.so"]
    assert (folder / "ld.so").read_text() == (suite / packages._LOADER).read_text()


def test_programs_that_do_not_run_here_are_an_error(apt, suite, tmp_path):
    folder = tmp_path / "ours"
    files = f"{folder}/cache/archives"
    write_program(apt, f"echo 1 >{files}/nginx.deb; echo 2 >{files}/haproxy.deb")
    write_program(suite / packages._LOADER, "echo kernel too old >&2; exit 127")
    with pytest.raises(BenchError, match=r"^nginx does not run: kernel too old$"):
        make_newest(folder, [])


def test_another_machines_root_is_an_error(suite, tmp_path):
    (suite / packages._LOADER).unlink()
    with pytest.raises(BenchError, match=r"^the lab's forky is not for x86-64$"):
        make_newest(tmp_path, [])


def test_only_root_builds_what_the_lab_does_not_have(tmp_path, monkeypatch):
    monkeypatch.setenv("KTLSGATE_LAB", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BenchError, match=r"^the lab has no forky, and only root can build it$"):
        make_newest(tmp_path / "ours", [])
