"""A system call filter for tests: refuse setsockopt(TCP_ULP), then become another program.

    python seccomp.py ERRNO PROGRAM ARGUMENT...        0 is a filter that lets it pass

It needs no rights (no_new_privs) and nothing but Python. The filter compares the numbers
of one machine's system call table, so it is for `MACHINES` only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

# Machine → (AUDIT_ARCH of linux/audit.h, the number of setsockopt).
MACHINES = {"x86_64": (0xC000003E, 54), "aarch64": (0xC00000B7, 208)}

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # SECCOMP_RET_*
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_TCP, _TCP_ULP = 6, 31


def _program(code: int) -> bytes:
    """``struct seccomp_data``: number at 0, architecture at 4, arguments from 16, 8 each."""
    arch, setsockopt = MACHINES[os.uname().machine]
    checks = [(4, arch), (0, setsockopt), (24, _TCP), (32, _TCP_ULP)]
    rows = []
    for at, (offset, value) in enumerate(checks):
        rows.append((_LOAD, 0, 0, offset))
        rows.append((_EQUAL, 0, 2 * (len(checks) - at) - 1, value))  # else to "allow"
    refused = _ERRNO | code if code else _ALLOW
    rows += [(_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *row) for row in rows)


def forbid_ulp(code: int) -> None:
    """Let setsockopt(IPPROTO_TCP, TCP_ULP) fail with an errno, from now on, for good.

    Raises:
        OSError: this kernel has no filters.
    """
    program = _program(code)
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_SECCOMP, _FILTER)):
        pointer = header if arguments[0] == _PR_SET_SECCOMP else ctypes.c_ulong(0)
        words = [ctypes.c_ulong(each) for each in arguments[1:]]
        if libc.prctl(arguments[0], *words, pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    forbid_ulp(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
