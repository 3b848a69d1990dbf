"""Features on a real kernel agree with what is known of its version."""

from __future__ import annotations

import errno
import os

import pytest
from helpers.descriptors import open_descriptors
from helpers.ktls import KERNEL_SUITES, TLS12, TLS13, require_ktls

from ktlsgate.kernel.features import FeatureName, probe_features, random_key
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
}
# Observed: the first series of these kernels that has it, and how earlier ones refuse.
SINCE = {
    FeatureName.REKEY: ((6, 14), errno.EBUSY),
    FeatureName.POLL_HIDES_PARTIAL_RECORDS: ((6, 12), 0),
    FeatureName.TX_MAX_PAYLOAD_LEN: ((7, 0), errno.ENOPROTOOPT),
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


@pytest.mark.ktls
def test_the_kernels_that_were_observed_answer_as_they_did() -> None:
    require_ktls(TLS13)
    version = parse_version(os.uname().release)
    if version.series not in OBSERVED:
        pytest.skip(f"nothing was observed on Linux {version}")
    for feature in probe_features(TLS13):
        since, refusal = SINCE.get(feature.name, ((0, 0), 0))
        assert feature.outcome.ok is (version.series >= since), feature
        assert feature.outcome.errno == (0 if feature.outcome.ok else refusal)
    assert set(SINCE) | EVERYWHERE == set(FeatureName)


@pytest.mark.ktls
def test_features_work_for_tls12_too() -> None:
    require_ktls(TLS12)
    outcomes = {f.name: f.outcome for f in probe_features(TLS12)}
    for name in EVERYWHERE - {FeatureName.RX_EXPECT_NO_PAD}:
        assert outcomes[name].ok, outcomes[name]
