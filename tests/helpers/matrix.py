"""THE MATRIX: what becomes of each kind of connection, once, as a table.

A cell is one connection: an engine, a version, a cipher, a shape. What is expected of it
depends on the OpenSSL that the gate runs with, too (`generation_of`), and on no kernel:
from Linux 6.1 on all of them take the same ciphers.

`MODES` says who ends up with the keys, `SEQUENCES` which record numbers they start at,
as counted on real kernels; `openssl` is the oracle of `direct`, since there OpenSSL told
the kernel its own numbers. Every cell has exactly one expectation and no row is idle:
``tests/e2e/test_matrix_table.py`` sees to it.
"""

from __future__ import annotations

import importlib.metadata
import itertools
from dataclasses import dataclass

from OpenSSL import SSL

DIRECT, OPENSSL = ENGINES = ("direct", "openssl")
TLS12, TLS13 = VERSIONS = ("1.2", "1.3")

# OpenSSL's names; a cipher is absent where the version, or OpenSSL's speech of it, has none.
CIPHERS = {
    "AES_128_GCM": {TLS12: "ECDHE-ECDSA-AES128-GCM-SHA256", TLS13: "TLS_AES_128_GCM_SHA256"},
    "AES_256_GCM": {TLS12: "ECDHE-ECDSA-AES256-GCM-SHA384", TLS13: "TLS_AES_256_GCM_SHA384"},
    "CHACHA20_POLY1305": {
        TLS12: "ECDHE-ECDSA-CHACHA20-POLY1305",
        TLS13: "TLS_CHACHA20_POLY1305_SHA256",
    },
    "AES_128_CCM": {TLS12: "ECDHE-ECDSA-AES128-CCM", TLS13: "TLS_AES_128_CCM_SHA256"},
    "AES_128_CCM_8": {TLS12: "ECDHE-ECDSA-AES128-CCM8", TLS13: "TLS_AES_128_CCM_8_SHA256"},
    "AES_256_CCM": {TLS12: "ECDHE-ECDSA-AES256-CCM"},
    "AES_128_CBC": {TLS12: "ECDHE-ECDSA-AES128-SHA256"},
}
KERNEL_CIPHERS = ("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305", "AES_128_CCM")
OTHER_CIPHERS = tuple(name for name in CIPHERS if name not in KERNEL_CIPHERS)

SMALL_RECORDS = "max_fragment_length"

# Records that were sealed and opened under the application's keys before the request's
# head: what goes into the kernel as rec_seq. TLS 1.3 counts the tickets that the server
# sent, TLS 1.2 the Finished of either side. (None, None): never in a kernel.
SEQUENCES = {
    (TLS12, "full"): (1, 1),
    (TLS12, "ticket"): (1, 1),  # resumed; the Finished come in the other order
    (TLS12, "stateful"): (1, 1),  # the same by session id
    (TLS12, "client_certificate"): (1, 1),
    (TLS12, "large_chain"): (1, 1),  # its ticket, several records long, is sent in the clear
    (TLS12, "glued"): (1, 1),  # head and body in one segment with a resumed client's Finished
    (TLS12, "segments"): (1, 1),  # of one byte
    (TLS12, "fin"): (1, 1),  # behind the request, at once
    (TLS12, SMALL_RECORDS): (None, None),
    (TLS13, "full"): (2, 0),
    (TLS13, "ticket"): (1, 0),  # a resumed client gets one ticket
    (TLS13, "stateful"): (1, 0),  # and so it does where tickets are mere names of sessions
    (TLS13, "hello_retry"): (2, 0),
    (TLS13, "client_certificate"): (2, 0),
    (TLS13, "large_chain"): (8, 0),  # both tickets hold it: four records each
    (TLS13, "early_data"): (2, 0),  # refused; what came early is under another key
    (TLS13, "glued"): (2, 0),  # to a first Finished
    (TLS13, "segments"): (2, 0),
    (TLS13, "fin"): (2, 0),
    (TLS13, SMALL_RECORDS): (None, None),
}
SHAPES = tuple(dict.fromkeys(shape for _, shape in SEQUENCES))
ORDINARY = tuple(shape for shape in SHAPES if shape != SMALL_RECORDS)

# Every request's head is in a record of its own, but for what is glued to it.
HEAD_RECORDS = 1

# What an OpenSSL's own kTLS can do: none of TLS 1.3's input before 3.2, nothing in a wheel.
OPENSSL_30, OPENSSL_32, WHEEL = GENERATIONS = ("3.0", "3.2", "wheel")
_DEBIAN = (OPENSSL_30, OPENSSL_32)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One connection to be made."""

    engine: str
    version: str
    cipher: str
    shape: str

    def __str__(self):
        return f"{self.engine}-{self.version}-{self.cipher}-{self.shape}"

    @property
    def suite(self):
        """OpenSSL's name of the cipher in this version."""
        return CIPHERS[self.cipher][self.version]


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What becomes of a cell.

    ``mode`` is what the backend is told (or `REFUSED`), ``fallback`` the reason in the
    report, ``tx`` and ``rx`` the kernel's numbers when the head has arrived (None: no key).
    """

    mode: str
    fallback: str = ""
    tx: int | None = None
    rx: int | None = None

    @property
    def label(self):
        """The mode, and the reason where there is one."""
        return f"{self.mode} {self.fallback}".strip()

    @property
    def has_key(self):
        """Whether some key is in the kernel."""
        return self.tx is not None


# The gate does not start: what the operator asked for cannot be had from this OpenSSL.
REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The mode of every cell that is in all of its sets."""

    engines: tuple[str, ...]
    generations: tuple[str, ...] = GENERATIONS
    versions: tuple[str, ...] = VERSIONS
    ciphers: tuple[str, ...] = tuple(CIPHERS)
    shapes: tuple[str, ...] = SHAPES
    mode: str
    fallback: str = ""

    def holds(self, cell, generation):
        return (
            cell.engine in self.engines
            and generation in self.generations
            and cell.version in self.versions
            and cell.cipher in self.ciphers
            and cell.shape in self.shapes
        )


MODES = (
    # Our own keys in the kernel: whatever OpenSSL it is.
    Row(engines=(DIRECT,), ciphers=KERNEL_CIPHERS, shapes=ORDINARY, mode="both"),
    # OpenSSL's keys in the kernel.
    Row(
        engines=(OPENSSL,),
        generations=_DEBIAN,
        versions=(TLS12,),
        ciphers=KERNEL_CIPHERS,
        shapes=ORDINARY,
        mode="both",
    ),
    Row(
        engines=(OPENSSL,),
        generations=(OPENSSL_32,),
        versions=(TLS13,),
        ciphers=KERNEL_CIPHERS,
        shapes=ORDINARY,
        mode="both",
    ),
    Row(
        engines=(OPENSSL,),
        generations=(OPENSSL_30,),
        versions=(TLS13,),
        ciphers=("AES_128_GCM", "AES_256_GCM", "CHACHA20_POLY1305"),
        shapes=ORDINARY,
        mode="tx",
        fallback="tx_only",
    ),
    Row(
        engines=(OPENSSL,),
        generations=(OPENSSL_30,),
        versions=(TLS13,),
        ciphers=("AES_128_CCM",),
        shapes=ORDINARY,
        mode="relay",
        fallback="openssl",  # a kernel would take it, this OpenSSL does not give it
    ),
    Row(engines=(OPENSSL,), generations=(WHEEL,), mode=REFUSED),
    # What no kernel takes. A suite is looked at before the client's wish for small records.
    Row(engines=(DIRECT,), ciphers=OTHER_CIPHERS, mode="relay", fallback="cipher"),
    Row(
        engines=(OPENSSL,),
        generations=_DEBIAN,
        ciphers=OTHER_CIPHERS,
        mode="relay",
        fallback="cipher",
    ),
    Row(
        engines=(DIRECT,),
        ciphers=KERNEL_CIPHERS,
        shapes=(SMALL_RECORDS,),
        mode="relay",
        fallback=SMALL_RECORDS,
    ),
    Row(
        engines=(OPENSSL,),
        generations=_DEBIAN,
        ciphers=KERNEL_CIPHERS,
        shapes=(SMALL_RECORDS,),
        mode="relay",
        fallback=SMALL_RECORDS,
    ),
)


def all_cells():
    """Every cell there is, for any OpenSSL."""
    combinations = itertools.product(ENGINES, VERSIONS, CIPHERS, SHAPES)
    cells = (Cell(engine=e, version=v, cipher=c, shape=s) for e, v, c, s in combinations)
    return [
        cell
        for cell in cells
        if cell.version in CIPHERS[cell.cipher] and (cell.version, cell.shape) in SEQUENCES
    ]


def cells_of(generation):
    """Every cell that a gate with such an OpenSSL serves."""
    return [cell for cell in all_cells() if expect(cell, generation).mode != REFUSED]


def refused_by(generation):
    """The engines with which a gate does not start."""
    serving = {cell.engine for cell in cells_of(generation)}
    return [engine for engine in ENGINES if engine not in serving]


def names_of(generation):
    """What there is to be seen with such an OpenSSL: cells, and engines refused."""
    return [str(cell) for cell in cells_of(generation)] + refused_by(generation)


def part_of(cells):
    """Each shape with one cipher per version, each cipher with the full shape, by engine."""
    usual = {TLS12: "AES_128_GCM", TLS13: "AES_256_GCM"}
    return [cell for cell in cells if cell.shape == "full" or cell.cipher == usual[cell.version]]


def rows_of(cell, generation):
    """The rows that hold for a cell: exactly one, says the test of this table."""
    return [row for row in MODES if row.holds(cell, generation)]


def expect(cell, generation, *, has_ktls=True):
    """What becomes of a cell; ``has_ktls`` tells of the kernel."""
    (row,) = rows_of(cell, generation)
    mode, fallback = row.mode, row.fallback
    if not has_ktls and mode not in ("relay", REFUSED):
        mode, fallback = "relay", "no_ulp"
    tx, rx = SEQUENCES[cell.version, cell.shape]
    return Expectation(
        mode=mode,
        fallback=fallback,
        tx=tx if mode in ("both", "tx") else None,
        rx=rx + HEAD_RECORDS if mode == "both" else None,
    )


def is_from_registry():
    """Whether cryptography, and so the OpenSSL in it, is a wheel of the registry's."""
    tags = importlib.metadata.distribution("cryptography").read_text("WHEEL") or ""
    return "manylinux" in tags or "musllinux" in tags


def generation_of(number, *, from_registry):
    """The row of an OpenSSL by its version number (0x30000140), and by who built it."""
    if from_registry:
        return WHEEL
    return OPENSSL_32 if number >= 0x3020_0000 else OPENSSL_30


def generation_here():
    """The row of the OpenSSL that these tests, and the gates in them, run with."""
    return generation_of(SSL.OPENSSL_VERSION_NUMBER, from_registry=is_from_registry())
