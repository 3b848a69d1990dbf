"""Addresses, host patterns and paths come in one spelling or not at all."""

import pytest
from helpers.config_text import FORMS, HOST_FORMS, NO_LISTENERS, NO_ROUTES, error_of, parse

from ktlsgate.service.config_names import split_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:443", "127.0.0.1", 443),
        ("Local-Host:0", "local-host", 0),
        ("[::1]:8443", "::1", 8443),
        ("[0:0::1]:1", "::1", 1),
        ("*:65535", "", 65535),
        (":80", "", 80),
    ],
)
def test_address_is_host_and_port(address, host, port):
    assert split_address(address) == (host, port)
    parsed = parse(f"{NO_LISTENERS}listen = [{{address = '{address}', tls = false}}]")
    assert parsed.listeners[0].address == address


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("443", f'expected {FORMS}, got "443"'),
        ("a:", f'expected {FORMS}, got "a:"'),
        ("a:-1", f'expected {FORMS}, got "a:-1"'),
        ("a:٤", f'expected {FORMS}, got "a:٤"'),
        ("a:65536", 'expected a port from 0 to 65535, got "a:65536"'),
        ("::1:443", f'expected {FORMS}, got "::1:443"; an IPv6 address stands in brackets'),
        (
            "[::x]:1",
            f'expected {FORMS} with an IPv6 address in the brackets, got "[::x]:1"',
        ),
        ("[::1:1", f'expected {FORMS} with an IPv6 address in the brackets, got "[::1:1"'),
        ("a b:1", f'expected {FORMS}, got "a b:1"'),
        ("-a:1", f'expected {FORMS}, got "-a:1"'),
    ],
)
def test_address_refuses_all_else(address, error):
    text = f"{NO_LISTENERS}listen = [{{address = '{address}', tls = false}}]"
    assert error_of(text) == f"k.toml:4: listen.address: {error}"


@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        ("'*'", ("*",)),
        ("'EXAMPLE.com.'", ("example.com",)),
        ("'*.Example.COM'", ("*.example.com",)),
        ("['a', 'A', 'b_c']", ("a", "b_c")),
        ("'straße.example'", ("xn--strae-oqa.example",)),
        ("'[0::1]'", ("[::1]",)),
        ("'127.0.0.1'", ("127.0.0.1",)),
    ],
)
def test_host_names_come_in_one_spelling(written, hosts):
    parsed = parse(f"{NO_ROUTES}route = [{{ backend = 'app', host = {written} }}]")
    assert parsed.routes[0].hosts == hosts


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("''", f'expected {HOST_FORMS}, got ""'),
        ("'a..b'", f'expected {HOST_FORMS}, got "a..b"'),
        ("'a.*'", f'expected {HOST_FORMS}, got "a.*"'),
        ("'*a'", f'expected {HOST_FORMS}, got "*a"'),
        ("'*.'", f'expected {HOST_FORMS}, got "*."'),
        ("'*.*.a'", f'expected {HOST_FORMS}, got "*.*.a"'),
        ("'a:80'", f'expected {HOST_FORMS}, got "a:80": it has no port'),
        ("'http://a'", f'expected {HOST_FORMS}, got "http://a": it has no port'),
        ("['ok', 5]", f"expected {HOST_FORMS}, got 5"),
        ("5", "expected a host name or a list of them, got 5"),
        ("[]", "expected at least one host name, got an empty list"),
        (f"'{'a' * 64}'", f'expected {HOST_FORMS}, got "{"a" * 64}"'),
    ],
)
def test_host_refuses_all_else(written, error):
    text = f"{NO_ROUTES}route = [{{ backend = 'app', host = {written} }}]"
    assert error_of(text) == f"k.toml:3: route.host: {error}"


def test_name_that_idna_refuses_says_why():
    text = f"{NO_ROUTES}route = [{{ backend = 'app', host = 'a。。ü' }}]"
    assert error_of(text).startswith(f'k.toml:3: route.host: expected {HOST_FORMS}, got "a。。ü": ')


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("x", 'expected a path that starts with "/", got "x"'),
        (
            "/x/",
            (
                'expected a path without a final "/", got "/x/"; did you mean "/x", '
                "which matches all below it?"
            ),
        ),
        ("/a/../b", 'expected a path without "." and ".." in it, got "/a/../b"'),
        (
            "/ä",
            'expected a path as in a request line: visible ASCII, no "?" and no "#", got "/ä"',
        ),
        (
            "/a?b",
            'expected a path as in a request line: visible ASCII, no "?" and no "#", got "/a?b"',
        ),
    ],
)
def test_path_refuses_what_no_request_line_has(path, error):
    text = f"{NO_ROUTES}route = [{{ backend = 'app', path = '{path}' }}]"
    assert error_of(text) == f"k.toml:3: route.path: {error}"
