"""The Unix socket that handoffs come to."""

import os
import socket
import stat
from pathlib import Path

import pytest

from ktlsgate.backend.unix_listener import UnixListener, bind_unix_listener
from ktlsgate.errors import ConfigError


def path_of(tmp_path):
    return str(tmp_path / "s")


def test_the_file_has_the_mode_asked_for_whatever_the_umask(tmp_path):
    old = os.umask(0o777)
    try:
        with bind_unix_listener(path_of(tmp_path), mode=0o620):
            assert stat.S_IMODE(Path(path_of(tmp_path)).stat().st_mode) == 0o620
    finally:
        assert os.umask(old) == 0o777


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
@pytest.mark.parametrize(("owner", "group"), [("nobody", "daemon"), ("65534", "1"), (65534, 1)])
def test_the_file_has_the_owner_and_group_asked_for(tmp_path, owner, group):
    with bind_unix_listener(path_of(tmp_path), owner=owner, group=group):
        found = Path(path_of(tmp_path)).stat()
    assert (found.st_uid, found.st_gid) == (65534, 1)


def test_nobody_can_connect_before_owner_and_mode_are_set(tmp_path, monkeypatch):
    """At the time of chmod the file is the owner's alone and refuses connections."""
    seen = []
    chmod = Path.chmod

    def look_then_chmod(path, mode):
        seen.append(stat.S_IMODE(path.stat().st_mode))
        with socket.socket(socket.AF_UNIX) as early, pytest.raises(ConnectionRefusedError):
            early.connect(str(path))
        chmod(path, mode)

    monkeypatch.setattr("ktlsgate.backend.unix_listener.Path.chmod", look_then_chmod)
    with bind_unix_listener(path_of(tmp_path)):
        assert seen == [0o600]


def test_a_file_that_a_killed_process_left_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path_of(tmp_path))
        left.listen()
    with bind_unix_listener(path_of(tmp_path)), socket.socket(socket.AF_UNIX) as client:
        client.connect(path_of(tmp_path))


def test_a_file_that_somebody_listens_on_stays(tmp_path):
    path = path_of(tmp_path)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(ConfigError) as caught:
            bind_unix_listener(path)
        expected = f"{path}: expected a free address, got one that somebody listens on"
        assert str(caught.value) == expected
        assert Path(path).exists()


def test_a_listener_with_a_full_queue_counts_as_listening(tmp_path):
    path = path_of(tmp_path)
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(path)
        other.listen(0)
        waiting.connect(path)
        with pytest.raises(ConfigError, match="somebody listens"):
            bind_unix_listener(path)


def test_a_datagram_socket_counts_as_somebody_listening(tmp_path):
    path = path_of(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(ConfigError, match="somebody listens"):
            bind_unix_listener(path)


def test_a_file_that_is_no_socket_stays(tmp_path):
    path = path_of(tmp_path)
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError) as caught:
        bind_unix_listener(path)
    assert str(caught.value) == f"{path}: expected a socket or nothing, got another kind of file"
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize(("path", "size"), [("/" + "x" * 107, 108), ("", 0), ("/" + "é" * 54, 109)])
def test_a_path_that_does_not_fit_is_refused(path, size):
    with pytest.raises(ConfigError) as caught:
        bind_unix_listener(path)
    assert str(caught.value) == f"{path}: expected a path of 1 to 107 bytes, got {size}"


def test_the_longest_path_fits(tmp_path):
    path = str(tmp_path / "x")
    path += "x" * (107 - len(path))
    with bind_unix_listener(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


@pytest.mark.parametrize(("what", "noun"), [("owner", "user"), ("group", "group")])
def test_an_unknown_name_is_refused(tmp_path, what, noun):
    with pytest.raises(ConfigError) as caught:
        bind_unix_listener(path_of(tmp_path), **{what: "no-such-name"})
    assert str(caught.value) == f"expected the name of a {noun}, got 'no-such-name'"
    assert not Path(path_of(tmp_path)).exists()


def test_an_error_of_the_kernel_names_the_path(tmp_path):
    path = str(tmp_path / "absent" / "s")
    with pytest.raises(FileNotFoundError) as caught:
        bind_unix_listener(path)
    assert caught.value.filename == path


def test_a_failure_behind_bind_leaves_no_file(tmp_path, monkeypatch):
    def refuse(path, mode):
        raise PermissionError(1, "Operation not permitted", str(path))

    monkeypatch.setattr("ktlsgate.backend.unix_listener.Path.chmod", refuse)
    with pytest.raises(PermissionError):
        bind_unix_listener(path_of(tmp_path))
    assert not Path(path_of(tmp_path)).exists()


def test_an_abstract_name_has_no_file():
    with bind_unix_listener("@ktlsgate-test") as listener:
        assert listener.address == "@ktlsgate-test"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("\0ktlsgate-test")


def test_closing_removes_the_file_and_can_be_repeated(tmp_path):
    listener = bind_unix_listener(path_of(tmp_path))
    listener.close()
    assert not Path(path_of(tmp_path)).exists()
    with bind_unix_listener(path_of(tmp_path)):
        listener.close()
        assert Path(path_of(tmp_path)).exists()


def test_closing_leaves_a_file_that_somebody_else_put_there(tmp_path):
    old = bind_unix_listener(path_of(tmp_path))
    (tmp_path / "s").rename(tmp_path / "old")
    with bind_unix_listener(path_of(tmp_path)):
        old.close()
        assert Path(path_of(tmp_path)).exists()


def test_closing_in_another_process_leaves_the_file(tmp_path, monkeypatch):
    listener = bind_unix_listener(path_of(tmp_path))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    listener.close()
    assert Path(path_of(tmp_path)).exists()


def test_an_inherited_socket_is_named_but_its_file_is_not_ours(tmp_path):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path_of(tmp_path))
    sock.listen()
    with UnixListener(sock) as listener:
        assert listener.address == path_of(tmp_path)
        assert repr(listener) == f"<UnixListener {path_of(tmp_path)}>"
        assert not sock.getblocking()
    assert Path(path_of(tmp_path)).exists()
