"""The kernel's counters: read where they are, and compared with what was done."""

from __future__ import annotations

import pytest
from helpers.ktls import ktls_pair, require_ktls

from ktlsgate.kernel.probe import probe_kernel
from ktlsgate.kernel.tls_stat import (
    RX_KEYS,
    TX_KEYS,
    CounterChange,
    CounterCheck,
    TlsStat,
    changes_between,
    check_counters,
    parse_tls_stat,
    read_tls_stat,
)
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome

TEXT = """\
TlsCurrTxSw                     \t1
TlsCurrRxSw                     \t0
TlsTxSw                         \t7
TlsRxSw                         \t5
TlsDecryptError                 \t0
"""
STAT = TlsStat(
    counters=(
        ("TlsCurrTxSw", 1),
        ("TlsCurrRxSw", 0),
        ("TlsTxSw", 7),
        ("TlsRxSw", 5),
        ("TlsDecryptError", 0),
    )
)


def stat(**counters: int) -> TlsStat:
    return TlsStat(counters=tuple(counters.items()))


def test_the_kernels_lines_are_read_in_its_order() -> None:
    assert parse_tls_stat(TEXT) == STAT


@pytest.mark.parametrize("text", ["", "\n", "TlsTxSw\n", "TlsTxSw x\n", "TlsTxSw 1 2\n", "a -1\n"])
def test_lines_that_are_none_are_left_out(text) -> None:
    assert parse_tls_stat(text) == TlsStat()


def test_a_file_is_read_where_it_is(tmp_path) -> None:
    (tmp_path / "proc/net").mkdir(parents=True)
    (tmp_path / "proc/net/tls_stat").write_text(TEXT)
    assert read_tls_stat(tmp_path) == STAT


def test_an_absent_file_is_a_value(tmp_path) -> None:
    assert read_tls_stat(tmp_path) is None


def test_only_what_moved_is_named_and_what_merely_is_there_now_is_not() -> None:
    after = stat(TlsCurrTxSw=9, TlsTxSw=8, TlsRxSw=5, TlsDecryptError=2)
    moved = changes_between(STAT, after)
    assert [str(change) for change in moved] == ["TlsTxSw +1", "TlsDecryptError +2"]


def test_a_file_that_came_with_the_module_counts_from_zero() -> None:
    assert changes_between(None, stat(TlsTxSw=2)) == (CounterChange(name="TlsTxSw", by=2),)


def test_without_the_file_nothing_is_known() -> None:
    assert changes_between(STAT, None) is None
    assert check_counters(STAT, None, tx_keys=8, rx_keys=8) == CounterCheck()


def test_counters_that_rose_as_often_as_keys_were_taken_are_proof() -> None:
    check = check_counters(stat(), stat(TlsTxSw=8, TlsRxSw=9), tx_keys=8, rx_keys=8)
    assert check.proof is DONE
    assert (check.rise_of(TX_KEYS), check.rise_of(RX_KEYS), check.rise_of("x")) == (8, 9, 0)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (stat(TlsTxSw=7, TlsRxSw=8), "TlsTxSw rose by 7, but 8 sending keys were taken"),
        (stat(TlsTxSw=8), "TlsRxSw rose by 0, but 8 receiving keys were taken"),
    ],
)
def test_counters_that_did_not_rise_are_the_opposite(after, reason) -> None:
    check = check_counters(stat(), after, tx_keys=8, rx_keys=8)
    assert check.proof == Outcome(ok=False, reason=reason)


def test_where_no_key_was_taken_there_is_nothing_to_prove() -> None:
    assert check_counters(stat(), stat(), tx_keys=0, rx_keys=0) == CounterCheck(moved=())


@pytest.mark.ktls
def test_the_kernel_counts_each_key_once() -> None:
    require_ktls()
    before = read_tls_stat()
    with ktls_pair() as (sock, peer):
        sock.sendall(b"out")
        assert peer.recv() == (23, b"out")
        peer.send(b"in")
        assert sock.recv(100) == b"in"
        moved = changes_between(before, read_tls_stat())
    assert [str(change) for change in moved] == ["TlsTxSw +1", "TlsRxSw +1"]


@pytest.mark.ktls
def test_the_kernel_counts_what_it_cannot_open() -> None:
    require_ktls()
    before = read_tls_stat()
    with ktls_pair() as (sock, peer):
        peer.send(b"spoilt", corrupt=True)
        with pytest.raises(OSError, match=r"\[Errno 74\]"):
            sock.recv(100)
        moved = changes_between(before, read_tls_stat())
    assert CounterChange(name="TlsDecryptError", by=1) in moved


@pytest.mark.ktls
def test_the_probes_own_trials_are_proven_by_the_counters() -> None:
    require_ktls()
    counters = probe_kernel().counters
    assert counters.proof is DONE
    # One for each cell, and more for the features.
    assert counters.rise_of(TX_KEYS) > 8
    assert counters.rise_of(RX_KEYS) > 8


def test_where_the_kernel_has_no_tls_code_the_probe_has_no_proof() -> None:
    if read_tls_stat() is not None:
        pytest.skip("this kernel has /proc/net/tls_stat")
    counters = probe_kernel().counters
    assert read_tls_stat() is not None or counters == CounterCheck(moved=None, proof=NOT_TRIED)
