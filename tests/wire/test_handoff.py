"""The handoff's values: what the wire calls them, and what their texts hide."""

from __future__ import annotations

import dataclasses

import pytest

from ktlsgate.wire.handoff import FINISHED, RECEIVED, Handoff, Mode, TlsFacts


def test_modes_have_the_words_of_the_wire():
    assert [(mode.name, mode.value) for mode in Mode] == [
        ("PLAIN", "plain"),
        ("BOTH", "both"),
        ("TX", "tx"),
        ("RELAY", "relay"),
    ]


def test_receivers_bytes_are_two_different_ascii_controls():
    assert (RECEIVED, FINISHED) == (b"\x06", b"\x04")


def test_facts_default_to_a_first_visit_without_extras():
    facts = TlsFacts(protocol="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256")
    assert (facts.sni, facts.alpn, facts.is_resumed) == ("", "", False)
    assert facts.client_certificate == ()


def test_client_certificate_is_not_in_the_repr_of_the_facts():
    facts = TlsFacts(
        protocol="TLSv1.3", cipher="X", client_certificate=((b"SSL_CLIENT_S_DN", b"CN=secret"),)
    )
    assert "secret" not in repr(facts)


@pytest.mark.parametrize("kind", [Handoff, TlsFacts])
def test_values_are_frozen(kind):
    assert kind.__dataclass_params__.frozen
    assert dataclasses.fields(kind)[0].kw_only
