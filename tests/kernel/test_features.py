"""Features on a real kernel agree with what is known of its version."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from helpers.descriptors import open_descriptors
from helpers.ktls import KERNEL_SUITES, TLS12, TLS13, require_ktls
from helpers.mptcp import IPPROTO_MPTCP

from ktlsgate.kernel.features import (
    ON_REQUEST,
    FeatureName,
    probe_features,
    random_key,
    try_feature,
)
from ktlsgate.kernel.known_bugs import parse_version
from ktlsgate.kernel.trials import NOT_TRIED
from ktlsgate.wire.crypto_info import TxCryptoInfo

EVERYWHERE = {
    FeatureName.CONTROL_RECORDS,
    FeatureName.SENDFILE,
    FeatureName.SPLICE_TO_SOCKET,
    FeatureName.SPLICE_FROM_SOCKET,
    FeatureName.TX_ZEROCOPY_RO,
    FeatureName.RX_EXPECT_NO_PAD,
    FeatureName.KEYS_READABLE,
    FeatureName.FD_PASSING,
    FeatureName.IPV6,
}
NOWHERE = {FeatureName.MPTCP}  # these kernels have none; others' take no TLS layer
# Observed: the first series of these kernels that has it, and how earlier ones refuse.
SINCE = {
    FeatureName.REKEY: ((6, 14), errno.EBUSY),
    FeatureName.POLL_HIDES_PARTIAL_RECORDS: ((6, 12), 0),
    FeatureName.TX_MAX_PAYLOAD_LEN: ((7, 0), errno.ENOPROTOOPT),
    FeatureName.SEND_SURVIVES_SIGNALS: ((7, 0), 0),  # and 6.12.105 according to its changelog
}
OBSERVED = {(6, 1), (6, 12), (7, 2)}


@pytest.mark.parametrize("suite", KERNEL_SUITES, ids=lambda s: f"{s.version.name}-{s.cipher.name}")
def test_a_random_key_fits_the_kernels_struct(suite) -> None:
    sizes = {16: 40, 32: 56}
    info = TxCryptoInfo(suite=suite, key=random_key(suite), rec_seq=0)
    assert len(info.pack()) == sizes[suite.shape.key]


def test_where_the_kernel_has_none_every_feature_is_a_value() -> None:
    """Run blindly it still raises nothing, leaks nothing, and answers for every feature."""
    before = open_descriptors()
    features = probe_features(TLS13)
    assert [feature.name for feature in features] == list(FeatureName)
    assert all(f.outcome.ok or f.outcome.reason for f in features)
    assert not any(f.outcome.is_broken for f in features)
    assert open_descriptors() == before


def test_features_of_tls13_are_not_tried_with_tls12() -> None:
    outcomes = {f.name: f.outcome for f in probe_features(TLS12)}
    assert outcomes[FeatureName.REKEY] is NOT_TRIED
    assert outcomes[FeatureName.RX_EXPECT_NO_PAD] is NOT_TRIED


def test_what_takes_long_is_tried_on_request_only() -> None:
    outcomes = {f.name: f.outcome for f in probe_features(TLS13)}
    assert {name for name in ON_REQUEST if outcomes[name] is not NOT_TRIED} == set()
    asked = {f.name: f.outcome for f in probe_features(TLS13, asked=ON_REQUEST)}
    assert {name for name in asked if asked[name] is NOT_TRIED} <= {FeatureName.MPTCP}


def test_mptcp_sockets_take_no_layer_and_say_what_does() -> None:
    outcome = try_feature(FeatureName.MPTCP, TLS13)
    if outcome is NOT_TRIED:
        with pytest.raises(OSError, match="rotocol"):
            socket.socket(socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
        return
    assert outcome.reason == "they take no TLS layer; plain TCP sockets do (ENOPROTOOPT)"


@pytest.mark.ktls
def test_the_kernels_that_were_observed_answer_as_they_did() -> None:
    require_ktls(TLS13)
    version = parse_version(os.uname().release)
    if version.series not in OBSERVED:
        pytest.skip(f"nothing was observed on Linux {version}")
    for feature in probe_features(TLS13, asked=ON_REQUEST):
        never = ((99, 0), 0) if feature.name in NOWHERE else ((0, 0), 0)
        since, refusal = SINCE.get(feature.name, never)
        assert feature.outcome.ok is (version.series >= since), feature
        assert feature.outcome.errno == (0 if feature.outcome.ok else refusal)
    assert set(SINCE) | EVERYWHERE | NOWHERE == set(FeatureName)


@pytest.mark.ktls
def test_features_work_for_tls12_too() -> None:
    require_ktls(TLS12)
    outcomes = {f.name: f.outcome for f in probe_features(TLS12)}
    for name in EVERYWHERE - {FeatureName.RX_EXPECT_NO_PAD}:
        assert outcomes[name].ok, outcomes[name]
