"""The demo's large file: any prefix of one endless sequence, so its hash is known.

The sequence is one pseudo-random block again and again, its first 8 bytes replaced
by the block's number: two blocks that changed places change the hash. The file
has no name and grows to the largest size that was asked for.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator

import trio

__all__ = ["BLOCK_SIZE", "BigFile", "generate"]

BLOCK_SIZE = 1 << 20
_NUMBER_SIZE = 8


def generate(start: int, end: int) -> Iterator[bytes]:
    """Yield the sequence from block ``start`` up to byte ``end``."""
    base = hashlib.shake_128(b"ktlsgate demo").digest(BLOCK_SIZE)[_NUMBER_SIZE:]
    for number in range(start, -(-end // BLOCK_SIZE)):
        block = number.to_bytes(_NUMBER_SIZE, "big") + base
        yield block[: end - number * BLOCK_SIZE]


class BigFile:
    """The file, and the hashes of its prefixes."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._blocks = 0
        self._hashes: dict[int, str] = {}
        self._lock = trio.Lock()

    def fileno(self) -> int:
        """The descriptor to send from."""
        return self._file.fileno()

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()

    async def grow(self, size: int) -> None:
        """Make the first ``size`` bytes exist. Cancellation waits for the disk."""
        async with self._lock:
            await trio.to_thread.run_sync(self._write, -(-size // BLOCK_SIZE))

    async def hash(self, size: int) -> str:
        """Compute the SHA-256 of the first ``size`` bytes, in hexadecimal."""
        if size not in self._hashes:
            self._hashes[size] = await trio.to_thread.run_sync(_hash, size)
        return self._hashes[size]

    def _write(self, blocks: int) -> None:
        for block in generate(self._blocks, blocks * BLOCK_SIZE):
            self._file.write(block)
            self._blocks += 1
        self._file.flush()


def _hash(size: int) -> str:
    digest = hashlib.sha256()
    for block in generate(0, size):
        digest.update(block)
    return digest.hexdigest()
