"""Both engines by real handshakes: what each reports with and without a kernel's help."""

from __future__ import annotations

import dataclasses
import errno

import pytest
from helpers.descriptors import no_descriptor_left, open_descriptors
from helpers.ktls import kernel_table, require_ktls

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine, EngineTrial, Identity, try_engine
from ktlsgate.kernel.openssl_probe import make_identity
from ktlsgate.kernel.trials import DONE, NOT_TRIED, Outcome
from ktlsgate.wire.ciphers import SUITES, Version

NO = Outcome(ok=False, reason="no")
WHOLE = EngineTrial(
    engine=Engine.DIRECT, version=Version.TLS13, handshake=DONE, tx=DONE, rx=DONE, data=DONE
)
every_engine = pytest.mark.parametrize("engine", Engine)
every_version = pytest.mark.parametrize("version", Version, ids=lambda v: v.label)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


@pytest.mark.parametrize(
    ("changes", "offload", "reason"),
    [
        ({}, Offload.BOTH, ""),
        ({"rx": NO}, Offload.TX, "no"),
        ({"tx": NO, "rx": NO, "data": NOT_TRIED}, Offload.NONE, "no"),
        ({"data": NO}, Offload.NONE, "no"),
        ({"handshake": NO, "tx": NOT_TRIED, "rx": NOT_TRIED}, Offload.NONE, "no"),
    ],
    ids=["all", "no rx", "no keys", "no data", "no handshake"],
)
def test_a_trial_counts_as_far_as_data_went_through_the_descriptor(
    changes, offload, reason
) -> None:
    trial = dataclasses.replace(WHOLE, **changes)
    assert trial.offload is offload
    assert trial.reason == reason


@every_engine
@every_version
def test_a_handshake_comes_about_with_or_without_ktls(engine, version, identity) -> None:
    before = open_descriptors()
    trial = try_engine(engine, version, identity)
    assert trial.handshake is DONE
    assert SUITES[trial.suite].version is version
    assert (trial.engine, trial.version) == (engine, version)
    assert open_descriptors() == before


@every_version
def test_engine_direct_says_why_the_kernel_refused(version, identity) -> None:
    if kernel_table().ulp.ok:
        pytest.skip("this kernel has kTLS")
    trial = try_engine(Engine.DIRECT, version, identity)
    assert trial.tx == trial.rx == kernel_table().ulp
    assert trial.data is NOT_TRIED
    assert trial.offload is Offload.NONE


@every_version
def test_engine_openssl_says_that_openssl_did_not(version, identity) -> None:
    if kernel_table().ulp.ok:
        pytest.skip("this kernel has kTLS")
    trial = try_engine(Engine.OPENSSL, version, identity)
    assert trial.tx.reason == "OpenSSL did not give the sending key to the kernel"
    assert trial.rx.reason == "OpenSSL did not give the receiving key to the kernel"


@pytest.mark.ktls
@every_version
def test_engine_direct_gives_both_directions_wherever_the_kernel_does(version, identity) -> None:
    require_ktls()
    trial = try_engine(Engine.DIRECT, version, identity)
    assert trial.offload is Offload.BOTH, trial
    assert trial.reason == ""


@every_engine
def test_an_identity_that_openssl_does_not_take_is_a_value(engine, identity) -> None:
    other = make_identity()
    mismatched = Identity(certificate=identity.certificate, key=other.key)
    trial = try_engine(engine, Version.TLS13, mismatched)
    assert trial.handshake.is_broken
    assert trial.handshake.reason.startswith("ConfigError: certificate: expected")
    assert trial.tx is NOT_TRIED


@every_engine
def test_no_descriptor_left_is_a_value(engine, identity) -> None:
    with no_descriptor_left():
        trial = try_engine(engine, Version.TLS12, identity)
    assert trial.handshake.errno == errno.EMFILE
    assert trial.handshake.is_broken


def test_an_identitys_key_does_not_show(identity) -> None:
    assert "key=" not in repr(identity)
