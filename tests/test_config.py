"""The operator's decisions as values: their defaults are promises."""

from __future__ import annotations

import dataclasses

import pytest

from ktlsgate import config
from ktlsgate.config import (
    Backend,
    Certificate,
    ClientVerify,
    Config,
    Dialect,
    EngineChoice,
    Keepalive,
    KtlsPolicy,
    Limits,
    Listener,
    LogFormat,
    Logging,
    Offload,
    Route,
    RxFallback,
    Tls,
)
from ktlsgate.wire.ciphers import SUITES, Version

VALUES = [Backend, Certificate, Config, Limits, Listener, Logging, Route, Tls]
APP = Backend(name="app", addresses=("/run/app",))


def fields_of(value):
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


@pytest.mark.parametrize("kind", VALUES)
def test_values_are_frozen_slotted_and_named_when_made(kind):
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    assert all(field.kw_only for field in dataclasses.fields(kind))


def test_limits_bound_what_a_client_may_cost():
    assert fields_of(Limits()) == {
        "max_connections": 10_000,
        "handshake_timeout": 10.0,
        "header_timeout": 10.0,
        "handoff_timeout": 5.0,
        "relay_idle_timeout": 600.0,
        "drain_timeout": 30.0,
        "max_header_bytes": 32_768,
        "max_header_count": 100,
        "max_handshake_bytes": 131_072,
    }


def test_tls_policy_is_tls_1_2_and_1_3_without_client_certificates():
    tls = fields_of(Tls())
    assert tls.pop("ciphers").count(":") == 5
    assert tls.pop("ciphersuites").count(":") == 2
    assert tls == {
        "min_version": "TLSv1.2",
        "max_version": "TLSv1.3",
        "alpn": ("http/1.1",),
        "tickets": True,
        "client_verify": ClientVerify.NONE,
        "client_ca": "",
    }


@pytest.mark.parametrize(
    ("names", "version"), [(Tls().ciphers, Version.TLS12), (Tls().ciphersuites, Version.TLS13)]
)
def test_every_default_suite_can_go_to_the_kernel(names, version):
    assert [SUITES[name].version for name in names.split(":")] == [version] * len(names.split(":"))


def test_tls12_defaults_have_forward_secrecy():
    assert all(name.startswith("ECDHE-") for name in Tls().ciphers.split(":"))


def test_listener_prefers_the_kernel_in_both_directions():
    assert fields_of(Listener(address="*:443")) == {
        "address": "*:443",
        "tls": True,
        "ktls": KtlsPolicy.PREFER,
        "engine": EngineChoice.AUTO,
        "offload": Offload.BOTH,
        "backlog": 4096,
    }


def test_backend_speaks_our_dialect_and_may_be_any_user():
    assert fields_of(APP) == {
        "name": "app",
        "addresses": ("/run/app",),
        "dialect": Dialect.KTLSGATE,
        "peer_uid": None,
        "kept_connections": 0,
        "rx_fallback": RxFallback.SPLIT,
        "fail_timeout": 10.0,
        "absence_timeout": None,
    }


def test_route_takes_everything_unless_told():
    assert fields_of(Route(backend=APP)) == {
        "hosts": ("*",),
        "path": "/",
        "backend": APP,
        "keepalive": Keepalive.AUTO,
        "offload": Offload.BOTH,
        "share_secrets": False,
    }


def test_log_goes_to_stderr():
    assert fields_of(Logging()) == {"level": "info", "format": LogFormat.AUTO, "file": "stderr"}


def test_whole_configuration_needs_listeners_and_routes_only():
    assert fields_of(Config(listeners=(), routes=())) == {
        "listeners": (),
        "routes": (),
        "certificate": None,
        "tls": Tls(),
        "limits": Limits(),
        "logging": Logging(),
    }
    assert Certificate(file="x.pem").key == ""


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Offload, ["both", "tx", "none"]),
        (KtlsPolicy, ["require", "prefer", "off"]),
        (Dialect, ["ktlsgate", "nginx"]),
        (Keepalive, ["auto", "own", "single"]),
        (ClientVerify, ["none", "optional", "required"]),
        (LogFormat, ["auto", "json", "text"]),
    ],
)
def test_choices_have_the_words_of_the_file(kind, words):
    assert [choice.value for choice in kind] == words


def test_module_reads_no_file():
    assert not {"open", "os", "pathlib", "tomllib"} & set(vars(config))


@pytest.mark.parametrize(
    ("one", "other", "less"),
    [
        (Offload.BOTH, Offload.BOTH, Offload.BOTH),
        (Offload.BOTH, Offload.TX, Offload.TX),
        (Offload.NONE, Offload.TX, Offload.NONE),
        (Offload.TX, Offload.TX, Offload.TX),
    ],
)
def test_offloads_are_ordered(one, other, less):
    assert one.at_most(other) is other.at_most(one) is less
    assert less.is_within(one)
    assert less.is_within(other)
    assert one.is_within(other) is (one is less)
