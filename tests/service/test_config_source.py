"""Complaints: all at once, each with its place and the nearest name."""

import pytest
from helpers.config_text import NO_BACKENDS, NO_LISTENERS, NO_ROUTES, REST, error_of, errors_of


def test_all_mistakes_come_at_once_in_the_order_of_lines():
    text = """\
log_levl = "info"
[limits]
max_connections = true
[tls]
alpn = [
  "h2",
  "http/1.1",
  "spdy",
]
[[listen]]
address = ":443"
offload = "rx"
[[listen]]
tls = false
[[route]]
backend = "ap"
[backend.app]
address = "unix:"
"""
    assert errors_of(text) == [
        (
            'k.toml:1: log_levl: expected a key of the top of the file, got "log_levl";'
            ' did you mean "log_level"?'
        ),
        "k.toml:3: limits.max_connections: expected a number from 1, got true",
        (
            'k.toml:6: tls.alpn: expected "http/1.1" or "http/1.0", got "h2": one HTTP/2 connection'
            " carries requests for many routes, and a socket can be given to one backend only"
        ),
        'k.toml:8: tls.alpn: expected "http/1.1" or "http/1.0", got "spdy"',
        (
            "k.toml:10: listen: expected a [[cert]] table or --cert for a listener with tls = true,"
            " got none"
        ),
        'k.toml:12: listen.offload: expected "both", "tx" or "none", got "rx"',
        "k.toml:13: listen.address: expected this key in [[listen]], got none",
        (
            'k.toml:16: route.backend: expected the name of a [backend.NAME] table, got "ap";'
            ' did you mean "app"?'
        ),
        'k.toml:18: backend.app.address: expected "unix:/PATH" or "unix:@NAME", got "unix:"',
    ]


def test_key_of_another_table_says_where_it_belongs():
    """A key below the wrong header is TOML's most common trap."""
    text = REST + "[limits]\ndrain_timeout = 5\n[tls]\nmax_connections = 3\nktls = 'off'\n"
    assert errors_of(text) == [
        (
            'k.toml:5: limits.drain_timeout: expected a key of [limits], got "drain_timeout";'
            " it is a key of the top of the file"
        ),
        (
            'k.toml:7: tls.max_connections: expected a key of [tls], got "max_connections";'
            " it is a key of [limits]"
        ),
        (
            'k.toml:8: tls.ktls: expected a key of [tls], got "ktls";'
            " it is a key of the top of the file or [[listen]]"
        ),
    ]


def test_unknown_key_without_a_near_name_lists_the_known_ones():
    assert error_of(REST + "[[cert]]\nfile = 'x'\nzzz = 1") == (
        'k.toml:6: cert.zzz: expected a key of [[cert]], got "zzz"; known are file, key'
    )


def test_key_that_needs_quotes_is_shown_with_them():
    assert error_of(REST + '[limits]\n"a\\nb" = 1').startswith(
        'k.toml:5: limits."a\\nb": expected a key of [limits], got "a\\nb"'
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (REST + "limits = 3", "k.toml:4: limits: expected a table [limits], got 3"),
        (REST + "tls = []", "k.toml:4: tls: expected a table [tls], got an empty list"),
        (REST + "cert = [4]", "k.toml:4: cert: expected a table [[cert]], got 4"),
        (
            NO_LISTENERS + "[listen]\naddress = ':1'",
            "k.toml:4: listen: expected [[listen]], got [listen]",
        ),
        (NO_ROUTES + "route = 'x'", 'k.toml:3: route: expected [[route]], got "x"'),
        (
            NO_BACKENDS + "backend.app = 'x'",
            'k.toml:4: backend.app: expected a table [backend.NAME], got "x"',
        ),
        (
            NO_ROUTES + "route = [1]",
            "k.toml:3: route: expected a table [[route]], got 1",
        ),
    ],
)
def test_wrong_kind_of_table_is_a_complaint(text, error):
    assert error_of(text) == error
