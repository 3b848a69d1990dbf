"""Single values: what is taken, and the exact words for what is not."""

import pwd

import pytest
from helpers.config_text import NO_BACKENDS, REST, backend, error_of, parse


@pytest.mark.parametrize(
    ("written", "seconds"),
    [('"250ms"', 0.25), ('"10s"', 10), ('"5m"', 300), ('"1.5h"', 5400), ("3", 3), ("0.1", 0.1)],
)
def test_duration_takes_units_and_plain_seconds(written, seconds):
    assert parse(f"drain_timeout = {written}\n{REST}").limits.drain_timeout == seconds


@pytest.mark.parametrize(
    ("written", "came"),
    [
        ('"10"', '"10"'),
        ('"10 s"', '"10 s"'),
        ('"-1s"', '"-1s"'),
        ('"0s"', '"0s"'),
        ("0", "0"),
        ("-1", "-1"),
        ("true", "true"),
        ("inf", "inf"),
        ("nan", "nan"),
        ("[]", "an empty list"),
        ("07:00:00", "a time"),
    ],
)
def test_duration_refuses_all_else(written, came):
    assert error_of(f"drain_timeout = {written}\n{REST}") == (
        'k.toml:1: drain_timeout: expected a duration above 0 such as "250ms", "10s", "5m", "1h"'
        f" or a number of seconds, got {came}"
    )


@pytest.mark.parametrize(
    ("written", "number"), [("1", 1), ('"32k"', 32768), ('"1m"', 1048576), ('"2K"', 2048)]
)
def test_size_takes_units_and_plain_bytes(written, number):
    parsed = parse(f"limits.max_header_bytes = {written}\n{REST}")
    assert parsed.limits.max_header_bytes == number


@pytest.mark.parametrize(
    "written", ["0", "-1", "1.5", "true", '"32"', '"0k"', '"1g"', "2147483648"]
)
def test_size_refuses_all_else(written):
    assert error_of(f"limits.max_header_bytes = {written}\n{REST}") == (
        "k.toml:1: limits.max_header_bytes: expected a size above 0 in bytes such as 32768,"
        f' "32k" or "1m", got {written}'
    )


def test_count_has_bounds():
    text = f"limits.max_header_count = 0\n{REST}"
    assert error_of(text) == (
        "k.toml:1: limits.max_header_count: expected a number from 1 to 2147483647, got 0"
    )


def test_bool_is_not_a_number_and_a_number_is_not_a_bool():
    assert error_of(REST + "[tls]\ntickets = 1") == (
        "k.toml:5: tls.tickets: expected true or false, got 1"
    )
    assert error_of(REST + "[limits]\nmax_connections = true") == (
        "k.toml:5: limits.max_connections: expected a number from 1, got true"
    )


def test_peers_text_in_a_message_is_escaped_and_cut():
    text = f'log_file = "{"x" * 300}\\u0000"\n{REST}'
    assert error_of(text) == (
        'k.toml:1: log_file: expected "stderr", "stdout" or the path of a file, '
        f'got "{"x" * 100}..."'
    )


def test_old_version_is_a_complaint():
    assert error_of(REST + '[tls]\nmin_version = "TLSv1.1"') == (
        'k.toml:5: tls.min_version: expected "TLSv1.2" or "TLSv1.3", got "TLSv1.1";'
        ' did you mean "TLSv1.3"?'
    )


def test_alpn_may_be_empty_or_one_string():
    assert parse(REST + "[tls]\nalpn = []").tls.alpn == ()
    assert parse(REST + "[tls]\nalpn = 'http/1.0'").tls.alpn == ("http/1.0",)


def test_alpn_names_are_given_once():
    assert error_of(REST + "[tls]\nalpn = ['http/1.1', 'http/1.1']") == (
        'k.toml:5: tls.alpn: expected each protocol once, got "http/1.1, http/1.1"'
    )


def test_backend_address_of_107_bytes_is_the_longest():
    name = "n" * 107
    path = "/" + "p" * 106
    assert parse(backend(f"unix:@{name}")).routes[0].backend.address == f"@{name}"
    assert parse(backend(f"unix:{path}")).routes[0].backend.address == path


def test_backend_address_longer_than_sun_path_is_a_complaint_with_the_length():
    path = "/" + "p" * 107
    assert error_of(backend(f"unix:{path}")) == (
        "k.toml:5: backend.app.address: expected a socket path of at most 107 bytes (sun_path),"
        f' got 108: "{path[:100]}..."'
    )
    assert error_of(backend("unix:@" + "n" * 108)) == (
        "k.toml:5: backend.app.address: expected a socket name of at most 107 bytes (sun_path),"
        f' got 108: "{"n" * 100}..."'
    )


def test_length_of_a_relative_path_counts_the_folder_and_bytes_not_letters():
    error = error_of(backend("unix:" + "ä" * 50))
    assert "at most 107 bytes (sun_path), got 114:" in error


@pytest.mark.parametrize(
    ("address", "rest"),
    [
        ("/run/x", '; did you mean "unix:/run/x"?'),
        ("@x", '; did you mean "unix:@x"?'),
        ("127.0.0.1:80", ": sockets are given away on Unix sockets only"),
        ("tcp:x", ": sockets are given away on Unix sockets only"),
        ("unix:@", ""),
    ],
)
def test_backend_address_refuses_all_but_unix_sockets(address, rest):
    assert error_of(backend(address)) == (
        'k.toml:5: backend.app.address: expected "unix:/PATH" or "unix:@NAME", '
        f'got "{address}"{rest}'
    )


def test_peer_uid_may_be_a_user_of_this_machine():
    user = pwd.getpwall()[-1]
    text = f"{backend('unix:@x')}\npeer_uid = '{user.pw_name}'"
    assert parse(text).routes[0].backend.peer_uid == user.pw_uid


@pytest.mark.parametrize("written", ["-1", "4294967295", "true", '"no such user"', '""', "1.0"])
def test_peer_uid_refuses_who_is_nobody(written):
    assert error_of(f"{backend('unix:@x')}\npeer_uid = {written}") == (
        f"k.toml:6: backend.app.peer_uid: expected a user id or the name of a user, got {written}"
    )


def test_dialect_is_one_of_two():
    assert error_of(f"{backend('unix:@x')}\ndialect = 'ngnix'") == (
        'k.toml:6: backend.app.dialect: expected "ktlsgate" or "nginx", got "ngnix";'
        ' did you mean "nginx"?'
    )


@pytest.mark.parametrize("written", ["-1", "true", '"8"'])
def test_kept_connections_is_a_number(written):
    assert error_of(f"{backend('unix:@x')}\nkept_connections = {written}").startswith(
        "k.toml:6: backend.app.kept_connections: expected a number from 0"
    )


def test_nginxs_dialect_keeps_no_connections():
    text = f"{backend('unix:@x')}\ndialect = 'nginx'\nkept_connections = "
    assert parse(text + "0").routes[0].backend.kept_connections == 0
    assert error_of(text + "8") == (
        "k.toml:7: backend.app.kept_connections: expected 0 beside dialect = "
        '"nginx", which carries one handoff a connection, got 8'
    )


def test_backend_may_have_several_addresses_each_once():
    text = NO_BACKENDS + "[backend.app]\naddress = "
    assert parse(text + '["unix:@a", "unix:/b"]').routes[0].backend.addresses == ("@a", "/b")
    assert error_of(text + "[]") == (
        "k.toml:5: backend.app.address: expected at least one address, got an empty list"
    )
    assert error_of(text + '["unix:@a", "unix:/b", "unix:@a"]') == (
        'k.toml:5: backend.app.address: expected each address once, got "unix:@a" again'
    )


@pytest.mark.parametrize("key", ["fail_timeout", "absence_timeout"])
def test_a_backends_times_are_durations(key):
    text = f"{backend('unix:@x')}\n{key} = "
    assert getattr(parse(text + '"2m"').routes[0].backend, key) == 120
    assert error_of(text + "0").startswith(
        f"k.toml:6: backend.app.{key}: expected a duration above 0"
    )
