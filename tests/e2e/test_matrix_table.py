"""The table of expectations is total: one for every cell, and none that no cell needs."""

import re

import pytest
from helpers.cells import SHAPES as MADE
from helpers.matrix import (
    DIRECT,
    ENGINES,
    GENERATIONS,
    KERNEL_CIPHERS,
    MODES,
    OPENSSL,
    REFUSED,
    SEQUENCES,
    SHAPES,
    SMALL_RECORDS,
    TLS12,
    TLS13,
    VERSIONS,
    Cell,
    Expectation,
    all_cells,
    cells_of,
    expect,
    generation_of,
    part_of,
    rows_of,
)

from ktlsgate.wire.ciphers import SUITES

CELLS = all_cells()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_cell_has_exactly_one_expectation(generation):
    counts = {str(cell): len(rows_of(cell, generation)) for cell in CELLS}
    assert {name: count for name, count in counts.items() if count != 1} == {}


def test_every_row_is_somebodys_expectation():
    pairs = [(cell, generation) for cell in CELLS for generation in GENERATIONS]
    used = {row for cell, generation in pairs for row in rows_of(cell, generation)}
    assert [row for row in MODES if row not in used] == []


def test_every_sequence_is_some_cells():
    assert {(cell.version, cell.shape) for cell in CELLS} == set(SEQUENCES)


def test_every_shape_can_be_made():
    assert set(MADE) == set(SHAPES)


def test_names_of_cells_are_unique_and_readable():
    names = [str(cell) for cell in CELLS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"(direct|openssl)-1\.[23]-[A-Z0-9_]+-[a-z_]+", name) for name in names)


def test_ciphers_for_the_kernel_are_those_that_the_gate_knows():
    known = {cell.cipher for cell in CELLS if cell.suite in SUITES}
    assert known == set(KERNEL_CIPHERS)


def test_cells_are_the_whole_product_of_what_fits_together():
    ciphers, shapes = {TLS12: 7, TLS13: 5}, {TLS12: 9, TLS13: 11}
    assert len(CELLS) == 2 * sum(ciphers[version] * shapes[version] for version in VERSIONS)


def test_only_what_the_gate_refuses_is_not_served():
    assert cells_of("3.0") == cells_of("3.2") == CELLS
    assert cells_of("wheel") == [cell for cell in CELLS if cell.engine == DIRECT]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_default_part_has_each_shape_and_each_cipher_of_each_engine(generation):
    cells = cells_of(generation)
    part = part_of(cells)

    def traits(some):
        shapes = {(cell.engine, cell.version, cell.shape) for cell in some}
        return shapes, {(cell.engine, cell.version, cell.cipher) for cell in some}

    assert traits(part) == traits(cells)
    engines = len({cell.engine for cell in cells})
    assert len(part) == engines * (9 + 11 + 7 + 5 - len(VERSIONS))


def cell_of(engine, version, cipher="AES_128_GCM", shape="full"):
    return Cell(engine=engine, version=version, cipher=cipher, shape=shape)


@pytest.mark.parametrize("engine", ENGINES)
def test_numbers_are_expected_only_of_keys_in_the_kernel(engine):
    both = Expectation(mode="both", tx=2, rx=1)
    assert expect(cell_of(engine, TLS13), "3.2") == both
    none = Expectation(mode="relay", fallback=SMALL_RECORDS)
    assert expect(cell_of(engine, TLS13, shape=SMALL_RECORDS), "3.2") == none


def test_sending_alone_has_one_number():
    expected = Expectation(mode="tx", fallback="tx_only", tx=8)
    assert expect(cell_of(OPENSSL, TLS13, shape="large_chain"), "3.0") == expected


def test_kernel_without_ktls_relays_all():
    cell = cell_of(DIRECT, TLS12)
    assert expect(cell, "wheel", has_ktls=False) == Expectation(mode="relay", fallback="no_ulp")
    other = cell_of(DIRECT, TLS12, cipher="AES_128_CBC")
    assert expect(other, "wheel", has_ktls=False) == expect(other, "wheel")
    assert expect(cell_of(OPENSSL, TLS12), "wheel", has_ktls=False).mode == REFUSED


@pytest.mark.parametrize(
    ("number", "from_registry", "generation"),
    [
        (0x3000_0140, False, "3.0"),
        (0x3010_0000, False, "3.0"),
        (0x3020_0000, False, "3.2"),
        (0x3050_0070, False, "3.2"),
        (0x4000_0000, False, "3.2"),
        (0x4000_0030, True, "wheel"),
    ],
)
def test_openssl_is_recognised(number, from_registry, generation):
    assert generation_of(number, from_registry=from_registry) == generation
