"""A Unix stream socket that takes handoffs: bound, protected, and cleaned up behind.

Rules:

- Whoever may connect may give us connections, so owner, group and mode are right
  before anybody can: the file is made with mode 0600 (umask), then gets them, and
  only then listens; a connect before that is refused by the kernel (unix(7)).
- A socket file that somebody listens on is never taken away. One that nobody
  listens on (a connect is refused) is what a killed process left: replaced.
- At close the file goes only if it is still the one that we made, since a new
  process may have put its own there meanwhile, and only in the process that made it.

The socket is non-blocking: several processes may wait for one connection, and
all but one of them find nothing.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigError

__all__ = ["DEFAULT_BACKLOG", "UnixListener", "bind_unix_listener"]

# The gate answers 503 when the queue is full; the kernel cuts this to net.core.somaxconn.
DEFAULT_BACKLOG = 4096
_MAX_PATH = 107  # sun_path of unix(7) has 108 bytes, one of them ends it

_Identity = tuple[int, int, int]  # device and inode of the file, process that made it


class UnixListener:
    """A listening Unix stream socket, and the file that names it.

    Made by `bind_unix_listener`, or around a socket that somebody else bound
    (inherited from a service manager): then no file is removed.

    Attributes:
        socket: the listening socket, set non-blocking; ours to close.
        address: the path, ``@NAME`` for an abstract socket.
    """

    def __init__(
        self, sock: socket.socket, *, address: str = "", identity: _Identity | None = None
    ) -> None:
        """Own ``sock``; ``identity`` is given only by `bind_unix_listener`."""
        sock.setblocking(False)
        self.socket = sock
        self.address = address or _shown(sock.getsockname())
        self._identity = identity

    def __repr__(self) -> str:
        return f"<UnixListener {self.address}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the file if it is still ours, then stop listening. Idempotent."""
        identity, self._identity = self._identity, None
        if identity:
            with contextlib.suppress(OSError):
                if _identify(self.address) == identity:
                    Path(self.address).unlink()
        self.socket.close()


def bind_unix_listener(
    path: str,
    *,
    owner: str | int | None = None,
    group: str | int | None = None,
    mode: int = 0o660,
    backlog: int = DEFAULT_BACKLOG,
) -> UnixListener:
    """Make a Unix stream socket and listen on it.

    Args:
        path: where, at most 107 bytes; ``@NAME`` for an abstract socket, which has
            no file: owner, group and mode do not apply to it.
        owner: name or number of the file's owner, None for this process's.
        group: name or number of the file's group, None for this process's.
        mode: the file's permission bits; to connect one needs write permission.
        backlog: how many connections may wait; cut down to net.core.somaxconn.

    Raises:
        ConfigError: the path is too long, is no socket, is being listened on, or
            there is no such user or group.
        OSError: the kernel refused, with the path in it.
    """
    uid, gid = _user_id(owner), _group_id(group)
    size = len(os.fsencode(path))
    if not 0 < size <= _MAX_PATH:
        raise ConfigError(f"{path}: expected a path of 1 to {_MAX_PATH} bytes, got {size}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _naming(path):
            if path.startswith("@"):
                sock.bind("\0" + path[1:])
                identity = None
            else:
                identity = _bind_file(sock, path, uid, gid, mode)
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return UnixListener(sock, address=path, identity=identity)


def _bind_file(sock: socket.socket, path: str, uid: int, gid: int, mode: int) -> _Identity:
    _remove_stale(path)
    umask = os.umask(0o177)
    try:
        sock.bind(path)
    finally:
        os.umask(umask)
    try:
        if (uid, gid) != (-1, -1):
            os.chown(path, uid, gid, follow_symlinks=False)
        Path(path).chmod(mode)
        return _identify(path)
    except BaseException:
        Path(path).unlink()
        raise


def _remove_stale(path: str) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise ConfigError(f"{path}: expected a socket or nothing, got another kind of file")
    if _is_listened_on(path):
        raise ConfigError(f"{path}: expected a free address, got one that somebody listens on")
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()


def _is_listened_on(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(path)
    # Refused: a socket without a listener. EAGAIN: a listener with a full queue.
    # EPROTOTYPE: somebody's datagram socket, alive.
    taken = {0: True, errno.EAGAIN: True, errno.EPROTOTYPE: True}
    free = {errno.ECONNREFUSED: False, errno.ENOENT: False}
    verdict = (taken | free).get(answer)
    if verdict is None:
        raise OSError(answer, os.strerror(answer), path)
    return verdict


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put the path into errors of calls that do not know it."""
    try:
        yield
    except OSError as exc:
        if exc.filename is not None:
            raise
        raise OSError(exc.errno, exc.strerror, path) from exc


def _identify(path: str) -> _Identity:
    found = os.lstat(path)
    return found.st_dev, found.st_ino, os.getpid()


def _shown(name: str | bytes) -> str:
    if isinstance(name, bytes):  # Python gives the names of abstract sockets as bytes
        return "@" + os.fsdecode(name[1:])
    return name


def _user_id(owner: str | int | None) -> int:
    if isinstance(owner, str) and not owner.isdecimal():
        try:
            return pwd.getpwnam(owner).pw_uid
        except KeyError:
            raise ConfigError(f"expected the name of a user, got {owner!r}") from None
    return -1 if owner is None else int(owner)


def _group_id(group: str | int | None) -> int:
    if isinstance(group, str) and not group.isdecimal():
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            raise ConfigError(f"expected the name of a group, got {group!r}") from None
    return -1 if group is None else int(group)
