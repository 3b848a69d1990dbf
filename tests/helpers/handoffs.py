"""Handoffs as a gate sends them, written by hand so that tests decide every byte."""

import socket
from pathlib import Path

from ktlsgate.kernel.ancillary import send_fds

FD_PASS = (
    ("CONTENT_LENGTH", "0"),
    ("SCGI", "1+fd_pass"),
    ("REMOTE_ADDR", "192.0.2.7"),
    ("REMOTE_PORT", "40000"),
    ("REQUEST_METHOD", "GET"),
    ("REQUEST_URI", "/x?y=1"),
    ("SERVER_ADDR", "192.0.2.1"),
    ("SERVER_PORT", "443"),
    ("QUERY_STRING", "y=1"),
)


def build_head(pairs):
    """Write a netstring of names and values."""
    body = "".join(f"{name}\0{value}\0" for name, value in pairs).encode("latin-1")
    return b"%d:%b," % (len(body), body)


def our_pairs(mode="plain", keepalive="own", **changes):
    """A head of our dialect; keyword arguments replace or add names."""
    names = dict(FD_PASS)
    names |= {"KTLSGATE": "1", "KTLSGATE_MODE": mode, "KTLSGATE_KEEPALIVE": keepalive}
    return list((names | changes).items())


def our_head(mode="plain", keepalive="own", **changes):
    return build_head(our_pairs(mode, keepalive, **changes))


def nginx_head(ktls_rx=None, **changes):
    """A head of nginx's dialect; ``ktls_rx`` None is plain HTTP."""
    names = dict(FD_PASS)
    if ktls_rx is not None:
        names |= {"HTTPS": "on", "KTLS_RX": ktls_rx}
    return build_head(list((names | changes).items()))


def tcp_pair():
    """A connected pair of TCP sockets: the client's end, and the one that is handed over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    return client, server


def connect(address):
    """Connect to a Unix listener as a gate does."""
    unix = socket.socket(socket.AF_UNIX)
    unix.settimeout(5)
    unix.connect("\0" + address[1:] if address.startswith("@") else address)
    return unix


def open_fds():
    """The numbers of this process's open descriptors."""
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def hand_off(address, head, descriptor):
    """Send a whole handoff; returns the Unix connection, ``descriptor`` is closed."""
    unix = connect(address)
    assert send_fds(unix, head, [descriptor.fileno()]) == len(head)
    descriptor.close()
    return unix
