"""Freed memory goes back, where the C library can."""

import ctypes
import platform
import resource

import pytest

from ktlsgate.kernel import heap


def resident():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_memory_between_what_is_still_used_goes_back():
    """Half of many blocks are freed: none of that is the end of the heap."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)
    size, count = 65_536, 1_000
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    before = resident()
    try:
        assert heap.give_back_memory()
        assert before - resident() > size * count // 4
    finally:
        for block in blocks[1::2]:
            libc.free(block)


def test_a_c_library_without_it_gives_nothing_back(monkeypatch):
    monkeypatch.setattr(heap, "_malloc_trim", None)
    assert heap.give_back_memory() is False
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert heap._find_malloc_trim() is None
