"""Make every TCP socket of a Python program one of MPTCP, as mptcpize does, and be the probe."""

from __future__ import annotations

import socket
import sys

from ktlsgate.service.probe_report import main

IPPROTO_MPTCP = 262
_plain = socket.socket


class _MptcpSocket(_plain):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None) -> None:  # noqa: A002
        if fileno is None and type == socket.SOCK_STREAM and family != socket.AF_UNIX:
            proto = IPPROTO_MPTCP
        super().__init__(family, type, proto, fileno)


if __name__ == "__main__":
    socket.socket = _MptcpSocket
    sys.exit(main(["--json"]))
