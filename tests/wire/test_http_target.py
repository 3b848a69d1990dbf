"""Request targets and authorities on their own; the forms are tested through the head as well."""

from __future__ import annotations

import pytest

from ktlsgate.errors import HeadRejected
from ktlsgate.wire.http_target import Authority, Target, parse_authority, parse_target


def test_origin_form_keeps_its_bytes():
    assert parse_target(b"GET", b"/%2F/../?a?b") == Target(path=b"/%2F/../", query=b"a?b")


def test_absolute_form_fills_in_the_port_of_its_scheme():
    for scheme, port in ((b"http", 80), (b"HTTPS", 443)):
        assert parse_target(b"GET", scheme + b"://H/x") == Target(
            path=b"/x", query=b"", authority=Authority(host="h", port=port), default_port=port
        )


def test_asterisk_is_for_options_only():
    assert parse_target(b"OPTIONS", b"*") == Target(path=b"*", query=b"")
    message = r"^expected a path or an http\(s\) URL as the request target$"
    with pytest.raises(HeadRejected, match=message):
        parse_target(b"GET", b"*")


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [(b"A.b", "a.b", None), (b"a:", "a", None), (b"a:0", "a", 0), (b"[::A]:65535", "[::a]", 65535)],
)
def test_authority_is_a_lower_case_host_and_a_port(value, host, port):
    assert parse_authority(value) == Authority(host=host, port=port)


@pytest.mark.parametrize(
    "value", [b"a\n", b"a:1\n", b"[::1]\n", b"[::1]x", b"a:1:2", b"[]", b"-:x"]
)
def test_authority_is_matched_whole(value):
    with pytest.raises(HeadRejected) as info:
        parse_authority(value)
    assert info.value.status == 400


def test_clients_cannot_make_the_memory_for_authorities_grow():
    for number in range(1000):
        parse_authority(b"h%d" % number)
    assert parse_authority.cache_info().currsize == 256


def test_refused_authority_is_not_remembered():
    parse_authority.cache_clear()
    parse_authority(b"a" * 255 + b":65535")
    for value in (b"", b"a b", b"a" * 256, b"a:655350"):
        for _ in range(2):
            with pytest.raises(HeadRejected):
                parse_authority(value)
    assert parse_authority.cache_info().currsize == 1
