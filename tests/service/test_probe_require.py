"""Requirements: what names mean, how they combine, and what is said of a missing one."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.findings import (
    BARE,
    BROKEN,
    BUSY,
    EINVAL,
    ENOENT,
    FEATURES,
    LIBRARIES,
    NO_RX,
    findings,
    only,
    trials,
    without,
)

from ktlsgate.kernel.engines import Engine
from ktlsgate.kernel.features import FeatureName
from ktlsgate.kernel.openssl_probe import OpenSslReport
from ktlsgate.kernel.probe import OffloadTable
from ktlsgate.kernel.trials import DONE, NOT_TRIED
from ktlsgate.service.probe_require import (
    Requirements,
    UnknownRequirement,
    exit_code_for,
    missing_from,
    parse_requirements,
)
from ktlsgate.wire.ciphers import KernelCipher, Version

NOBODY = (
    "the tls module is not loaded, and this process may not load it: that takes CAP_NET_ADMIN"
    " in the first user namespace (ENOENT)"
)


def missing(found, text: str) -> list[str]:
    return [str(each) for each in missing_from(found, parse_requirements(text))]


def table(**refused) -> OffloadTable:
    """One in which some cells, as ``TLS13_AES_GCM_256``, have other outcomes."""
    cells = (
        dataclasses.replace(cell, **refused.get(f"{cell.version.name}_{cell.cipher.name}", {}))
        for cell in OffloadTable.all().cells
    )
    return OffloadTable(ulp=DONE, cells=tuple(cells))


# Names.


def test_a_list_is_sorted_into_what_it_asks_for() -> None:
    assert parse_requirements("rekey, rx,1.3,AES_256_GCM,direct") == Requirements(
        names=("rekey", "rx", "1.3", "AES_256_GCM", "direct"),
        directions=("rx",),
        versions=(Version.TLS13,),
        ciphers=(KernelCipher.AES_GCM_256,),
        features=(FeatureName.REKEY,),
        engines=(Engine.DIRECT,),
    )


@pytest.mark.parametrize(
    ("names", "ciphers"),
    [
        (("AES_128_GCM", "AES_GCM_128", "aes-128-gcm"), (KernelCipher.AES_GCM_128,)),
        (("AES_256_GCM", "AES_GCM_256"), (KernelCipher.AES_GCM_256,)),
        (("AES_128_CCM", "AES_CCM_128"), (KernelCipher.AES_CCM_128,)),
        (("CHACHA20_POLY1305", "chacha20-poly1305"), (KernelCipher.CHACHA20_POLY1305,)),
    ],
)
def test_a_cipher_has_the_kernels_name_and_the_standards(names, ciphers) -> None:
    for name in names:
        assert parse_requirements(name).ciphers == ciphers


@pytest.mark.parametrize("name", ["1.2", "TLSv1.2", "tls1.2"])
def test_a_version_has_three_names(name) -> None:
    assert parse_requirements(name).versions == (Version.TLS12,)


@pytest.mark.parametrize("feature", FeatureName)
def test_every_feature_is_a_name(feature) -> None:
    assert parse_requirements(feature.value.replace("_", "-")).features == (feature,)


def test_two_features_have_a_name_that_people_use() -> None:
    assert parse_requirements("no-partial-poll").features == (
        FeatureName.POLL_HIDES_PARTIAL_RECORDS,
    )
    assert parse_requirements("splice").features == (
        FeatureName.SPLICE_TO_SOCKET,
        FeatureName.SPLICE_FROM_SOCKET,
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rx,rekye", "unknown name 'rekye': the nearest is 'rekey'"),
        ("1.4", "unknown name '1.4': the nearest is '1.3'"),
        ("AES256-GCM", "unknown name 'AES256-GCM': the nearest is 'aes_256_gcm'"),
        ("", "expected names separated by commas, got none"),
        (" , ", "expected names separated by commas, got none"),
    ],
)
def test_an_unknown_name_is_told_its_nearest(text, complaint) -> None:
    with pytest.raises(UnknownRequirement) as caught:
        parse_requirements(text)
    assert str(caught.value) == complaint


def test_a_name_like_no_other_is_told_them_all() -> None:
    with pytest.raises(UnknownRequirement) as caught:
        parse_requirements("qqqqqq")
    assert str(caught.value).startswith("unknown name 'qqqqqq': known are tx, rx, 1.2, 1.3,")
    assert str(caught.value).endswith(", no_partial_poll")


# Combinations.


@pytest.mark.parametrize(
    "text",
    [
        "rx",
        "tx",
        "1.3",
        "1.2,1.3",
        "CHACHA20_POLY1305",
        "rx,1.3,AES_256_GCM,rekey",
        "openssl,direct",
    ],
)
def test_on_a_good_machine_nothing_is_missing(text) -> None:
    assert missing(findings(), text) == []


def test_every_direction_must_work_for_every_version_with_every_cipher() -> None:
    refused = {"rx": EINVAL, "data": DONE}
    found = findings(table=table(TLS13_AES_GCM_256=refused, TLS12_AES_CCM_128=refused))
    line = "tx+rx TLSv1.3 AES_GCM_256: rx: unknown (EINVAL)"
    assert missing(found, "tx,rx,1.2,1.3,AES_256_GCM") == [line]
    assert missing(found, "AES_256_GCM") == [line]
    assert missing(found, "1.2,AES_256_GCM") == []
    assert missing(found, "tx,AES_256_GCM,AES_128_CCM") == []
    assert missing(found, "rx,AES_256_GCM,AES_128_CCM") == [
        "rx TLSv1.3 AES_GCM_256: rx: unknown (EINVAL)",
        "rx TLSv1.2 AES_CCM_128: rx: unknown (EINVAL)",
    ]


def test_without_a_cipher_any_one_will_do() -> None:
    refused = {"tx": EINVAL, "rx": EINVAL, "data": NOT_TRIED}
    assert missing(findings(table=table(TLS13_AES_GCM_256=refused)), "1.3") == []
    assert missing(findings(table=only(Version.TLS12)), "tx") == [
        "tx TLSv1.3: tx: unknown (EINVAL)"
    ]


def test_data_that_did_not_move_is_missing_for_both_directions() -> None:
    refused = {"data": BUSY}
    found = findings(table=table(TLS13_AES_GCM_256=refused))
    assert missing(found, "tx,1.3,AES_256_GCM") == [
        "tx TLSv1.3 AES_GCM_256: data: cannot rekey (EBUSY)"
    ]


def test_a_feature_alone_asks_for_no_cipher() -> None:
    assert missing(findings(table=only(Version.TLS12)), "sendfile") == []


def test_a_missing_feature_says_why() -> None:
    features = tuple(
        dataclasses.replace(f, outcome=BUSY) if f.name is FeatureName.REKEY else f for f in FEATURES
    )
    assert missing(findings(features=features), "sendfile,rekey") == ["rekey: cannot rekey (EBUSY)"]


def test_without_an_upper_layer_everything_is_missing_for_one_reason() -> None:
    assert missing(without(ENOENT), "rx,1.3,AES_256_GCM,rekey,direct") == [
        f"rx TLSv1.3 AES_GCM_256: {NOBODY}",
        f"rekey: {NOBODY}",
        f"engine direct TLSv1.3: {NOBODY}",
    ]


def test_an_engine_must_do_the_named_versions_and_directions() -> None:
    report = OpenSslReport(
        libraries=LIBRARIES,
        trials=trials(Engine.DIRECT) + trials(Engine.OPENSSL, rx=NO_RX),
        has_ktls=True,
    )
    found = findings(openssl=report)
    reason = "rx: OpenSSL did not give the receiving key to the kernel"
    assert missing(found, "openssl") == [
        f"engine openssl TLSv1.3: {reason}",
        f"engine openssl TLSv1.2: {reason}",
    ]
    assert missing(found, "openssl,1.3") == [f"engine openssl TLSv1.3: {reason}"]
    assert missing(found, "openssl,tx") == []
    assert missing(found, "direct") == []


def test_an_engine_that_could_not_be_tried_is_missing() -> None:
    assert missing(findings(openssl=BARE), "direct") == [
        "engine direct: pyOpenSSL is not installed: engines not tried"
    ]


# Exit codes.


@pytest.mark.parametrize(
    ("found", "text", "code"),
    [
        (findings(), "rx", 0),
        (without(ENOENT), "rx", 1),
        (without(ENOENT), None, 3),
        (findings(table=only(Version.TLS12), openssl=BARE), "1.2", 0),
        (findings(table=OffloadTable(ulp=BROKEN)), "rx", 4),
    ],
)
def test_the_exit_code_is_about_what_was_required(found, text, code) -> None:
    wanted = None if text is None else parse_requirements(text)
    assert exit_code_for(found, wanted) == code
