"""The operator's file becomes a Config, or a complaint with a line for every mistake."""

import dataclasses
import os
import pwd
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktlsgate import config
from ktlsgate.errors import ConfigError
from ktlsgate.service.config_dump import dump_config
from ktlsgate.service.config_file import config_from_flags, load_config, parse_config
from ktlsgate.service.config_flags import Flags
from ktlsgate.service.config_names import split_address

# One line each, so that a test's own text starts in line 4.
REST = """\
backend.app.address = "unix:/run/app.sock"
listen = [{ address = ":8080", tls = false }]
route = [{ backend = "app" }]
"""
NO_ROUTES = REST.rsplit("route", 1)[0]
NO_LISTENERS = """\
backend.app.address = "unix:/run/app.sock"

route = [{ backend = "app" }]
"""
NO_BACKENDS = """\

listen = [{ address = ":8080", tls = false }]
route = [{ backend = "app" }]
"""
APP = config.Backend(name="app", address="/run/app.sock")


def parse(text, flags=None):
    return parse_config(text, name="k.toml", folder="/etc/ktlsgate", flags=flags)


def errors_of(text, flags=None):
    with pytest.raises(ConfigError) as caught:
        parse(text, flags)
    return list(caught.value.errors)


def error_of(text):
    [error] = errors_of(text)
    return error


EVERY_KEY = """\
ktls = "require"
drain_timeout = "1m"
log_level = "debug"
log_format = "json"
log_file = "stdout"

[limits]
max_connections = 5
handshake_timeout = "250ms"
header_timeout = 1.5
handoff_timeout = "2s"
relay_idle_timeout = "1h"
max_header_bytes = "16k"
max_header_count = 50
max_handshake_bytes = "1m"

[tls]
min_version = "TLSv1.3"
max_version = "TLSv1.3"
ciphers = "ECDHE+AESGCM"
ciphersuites = "TLS_AES_128_GCM_SHA256"
alpn = ["http/1.1", "http/1.0"]
tickets = false
client_verify = "required"
client_ca = "clients.pem"

[[cert]]
file = "a.pem"
key = "/secret/a.key"

[[listen]]
address = "[::]:443"

[[listen]]
address = "localhost:80"
tls = false
ktls = "off"
offload = "tx"
backlog = 16

[[route]]
host = ["A.example.", "*.Bücher.example"]
path = "/x"
backend = "app"
keepalive = "single"

[[route]]
backend = "b.2"

[backend.app]
address = "unix:run/app.sock"
dialect = "nginx"
peer_uid = 33

[backend."b.2"]
address = "unix:@two"
peer_uid = "root"
"""


def test_every_key_reaches_its_value():
    app = config.Backend(
        name="app",
        address="/etc/ktlsgate/run/app.sock",
        dialect=config.Dialect.NGINX,
        peer_uid=33,
    )
    assert parse(EVERY_KEY) == config.Config(
        listeners=(
            config.Listener(address="[::]:443", ktls=config.KtlsPolicy.REQUIRE),
            config.Listener(
                address="localhost:80",
                tls=False,
                ktls=config.KtlsPolicy.OFF,
                offload=config.Offload.TX,
                backlog=16,
            ),
        ),
        routes=(
            config.Route(
                hosts=("a.example", "*.xn--bcher-kva.example"),
                path="/x",
                backend=app,
                keepalive=config.Keepalive.SINGLE,
            ),
            config.Route(backend=config.Backend(name="b.2", address="@two", peer_uid=0)),
        ),
        certificate=config.Certificate(file="/etc/ktlsgate/a.pem", key="/secret/a.key"),
        tls=config.Tls(
            min_version="TLSv1.3",
            max_version="TLSv1.3",
            ciphers="ECDHE+AESGCM",
            ciphersuites="TLS_AES_128_GCM_SHA256",
            alpn=("http/1.1", "http/1.0"),
            tickets=False,
            client_verify=config.ClientVerify.REQUIRED,
            client_ca="/etc/ktlsgate/clients.pem",
        ),
        limits=config.Limits(
            max_connections=5,
            handshake_timeout=0.25,
            header_timeout=1.5,
            handoff_timeout=2.0,
            relay_idle_timeout=3600.0,
            drain_timeout=60.0,
            max_header_bytes=16384,
            max_header_count=50,
            max_handshake_bytes=1048576,
        ),
        logging=config.Logging(level="debug", format=config.LogFormat.JSON, file="stdout"),
    )


def test_every_field_of_the_config_has_a_key():
    """A field that no key sets would be an option that nobody can choose."""
    text = EVERY_KEY + "# drain_timeout is at the top, log_* too\n"
    for kind in (config.Limits, config.Tls, config.Certificate, config.Listener):
        for field in dataclasses.fields(kind):
            assert f"\n{field.name} = " in text


def test_absent_keys_take_the_defaults_of_config():
    parsed = parse(REST)
    assert parsed == config.Config(
        listeners=(config.Listener(address=":8080", tls=False),),
        routes=(config.Route(backend=APP),),
    )


def test_dump_reads_back_as_the_same_config():
    for text in (EVERY_KEY, REST):
        parsed = parse(text)
        assert parse(dump_config(parsed)) == parsed


# --- the file itself


def test_missing_file_is_named(tmp_path):
    file = tmp_path / "no.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.errors == (
        f"{file}: expected a readable file, got: No such file or directory",
    )


def test_folder_instead_of_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="expected a readable file, got: Is a directory"):
        load_config(tmp_path)


def test_unreadable_file_is_named(tmp_path):
    file = tmp_path / "k.toml"
    file.write_text(REST)
    file.chmod(0)
    if os.access(file, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ConfigError, match="expected a readable file, got: Permission denied"):
        load_config(file)


def test_file_that_is_not_utf8_has_the_line_of_the_byte(tmp_path):
    file = tmp_path / "k.toml"
    file.write_bytes(b"# a\n# b\xff\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.errors == (f"{file}:2: expected UTF-8, got the byte 0xff",)


def test_relative_names_start_at_the_files_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "k.toml").write_text(EVERY_KEY)
    parsed = load_config(f"{tmp_path.name}/k.toml")
    assert parsed.certificate.file == f"{tmp_path}/a.pem"
    assert parsed.routes[0].backend.address == f"{tmp_path}/run/app.sock"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            "a = 1\nb =\n",
            "k.toml:2: expected TOML, got: Invalid value (column 4)",
        ),
        (
            "a = 1\na = 2\n",
            "k.toml:2: expected TOML, got: Cannot overwrite a value (column 6)",
        ),
        (
            "a = 1\n[b",
            "k.toml:2: expected TOML, got: Expected ']' at the end of a table declaration",
        ),
    ],
)
def test_syntax_error_has_its_line(text, error):
    assert error_of(text).startswith(error)


def test_number_too_long_for_python_is_a_syntax_error():
    assert error_of("a = " + "9" * 5000).startswith(
        "k.toml:1: expected TOML, got: Exceeds the limit"
    )


def test_nesting_without_end_is_a_complaint():
    assert ": expected TOML, got" in error_of("a = " + "[" * 100_000)


# --- all errors at once, with lines


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


def test_empty_file_says_what_is_needed():
    assert errors_of("") == [
        "k.toml: listen: expected at least one [[listen]] table or --listen, got none",
        "k.toml: route: expected at least one [[route]] table or --backend, got none",
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


# --- values


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


# --- [tls] and [[cert]]


def test_lowest_version_above_the_highest_is_a_complaint():
    text = REST + '[tls]\nmin_version = "TLSv1.3"\nmax_version = "TLSv1.2"'
    assert error_of(text) == (
        'k.toml:5: tls.min_version: expected at most max_version "TLSv1.2", got "TLSv1.3"'
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


def test_client_verification_needs_authorities():
    assert error_of(REST + '[tls]\nclient_verify = "optional"') == (
        'k.toml:5: tls.client_verify: expected client_ca beside "optional", got none'
    )


def test_authorities_without_verification_are_a_complaint():
    """Whoever names authorities believes that clients are being verified."""
    assert error_of(REST + '[tls]\nclient_ca = "x"') == (
        'k.toml:5: tls.client_ca: expected client_verify = "optional" or "required" beside it,'
        ' got "none"'
    )


def test_second_certificate_is_not_supported_yet():
    assert error_of(REST + '[[cert]]\nfile = "a"\n[[cert]]\nfile = "b"') == (
        "k.toml:6: cert: expected one [[cert]], got 2: several certificates are not supported yet"
    )


def test_certificate_needs_a_file():
    assert error_of(REST + '[[cert]]\nkey = "a"') == (
        "k.toml:4: cert.file: expected this key in [[cert]], got none"
    )


# --- [[listen]]


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


FORMS = '"HOST:PORT", "[V6]:PORT", "*:PORT" or ":PORT"'


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


def test_listener_twice_is_a_complaint_however_it_is_written():
    text = (
        NO_LISTENERS + "listen = [\n{tls = false, address = ':1'},\n{tls = false, address = '*:1'}]"
    )
    assert error_of(text) == (
        "k.toml:6: listen.address: expected each address once, got the one of listener 1 again"
    )


def test_port_0_may_be_asked_for_twice():
    text = NO_LISTENERS + "listen = [{tls = false, address = ':0'}, {tls = false, address = ':0'}]"
    assert len(parse(text).listeners) == 2


def test_listener_policy_is_stronger_than_that_of_the_top():
    text = "ktls = 'off'\nlisten = [{address = ':1', tls = false, ktls = 'prefer'},"
    text += "{address = ':2', tls = false}]\nbackend.app.address = 'unix:@a'\nroute = [{backend = 'app'}]"
    assert [it.ktls.value for it in parse(text).listeners] == ["prefer", "off"]


# --- [[route]]


def routes(*tables):
    """Backends a and b, and [[route]] tables, each written as "key = value, key = value"."""
    head = (
        "backend.a.address = 'unix:@a'\nbackend.b.address = 'unix:@b'\n"
        "listen = [{ address = ':1', tls = false }]\n"
    )
    return head + "\n".join(
        "[[route]]\n" + re.sub(", (?=[a-z]+ =)", "\n", table.removesuffix(", ")) for table in tables
    )


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


HOST_FORMS = 'a host name such as "example.com", "*.example.com" or "*"'


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


def test_route_needs_a_backend():
    assert error_of(NO_ROUTES + "route = [{}]") == (
        "k.toml:3: route.backend: expected this key in [[route]], got none"
    )


def test_backend_that_is_wrong_in_itself_is_still_known_to_routes():
    text = NO_BACKENDS + "backend.app.address = 5"
    assert error_of(text) == (
        'k.toml:4: backend.app.address: expected "unix:/PATH" or "unix:@NAME", got 5'
    )


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("", ""),
        ("", "host = 'x'"),
        ("", "path = '/x'"),
        ("host = '*.x'", "host = 'a.b.x'"),
        ("host = '*.x'", "host = '*.b.x'"),
        ("path = '/a'", "path = '/a/b'"),
        ("host = ['x', 'y']", "host = 'y', path = '/a'"),
    ],
)
def test_route_that_an_earlier_one_covers_is_a_complaint(earlier, later):
    text = routes(f"backend = 'a', {earlier}", f"backend = 'b', {later}")
    [error] = errors_of(text)
    assert error.endswith(
        ": route: expected a route that some request can reach, got one whose requests all go to route 1:"
        " the first route that matches wins"
    )
    line = int(error.split(":")[1])
    assert text.splitlines()[line - 1] == "[[route]]"
    assert "[[route]]" not in text.splitlines()[line:]


def test_route_whose_hosts_are_covered_by_several_is_a_complaint():
    text = routes(
        "backend = 'a', host = 'x'", "backend = 'b', host = 'y'", "backend = 'a', host = ['y', 'x']"
    )
    assert "got one whose requests all go to route 1 and 2:" in error_of(text)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("host = 'x'", ""),
        ("host = '*.x'", "host = 'x'"),
        ("path = '/a'", "path = '/ab'"),
        ("path = '/a/b'", "path = '/a'"),
        ("host = 'x', path = '/a'", "host = 'y', path = '/a'"),
        ("host = 'x'", "host = ['x', 'y']"),
    ],
)
def test_route_that_some_request_reaches_is_fine(earlier, later):
    assert len(parse(routes(f"backend = 'a', {earlier}", f"backend = 'b', {later}")).routes) == 2


def test_own_keepalive_on_a_part_of_a_host_is_a_complaint():
    [error] = errors_of(routes("backend = 'a', path = '/x', keepalive = 'own'"))
    assert error == (
        'k.toml:7: route.keepalive: expected "auto" or "single", got "own":'
        ' this route is only a part of its host (path "/x"),'
        " so a later request on the same connection would slip past the routes"
    )


@pytest.mark.parametrize(
    ("one", "own"),
    [("path = '/x'", ""), ("host = 'x'", ""), ("host = '*.x'", "host = 'x.x'")],
)
def test_own_keepalive_beside_a_route_to_another_backend_is_a_complaint(one, own):
    tables = [f"backend = 'a', {one}", f"backend = 'b', keepalive = 'own', {own}"]
    if own:
        tables.reverse()
    [error] = errors_of(routes(*tables))
    assert error.endswith(
        f' expected "auto" or "single", got "own": route {2 if own else 1} gives some of the'
        ' same hosts to "a", so a later request on the same connection would slip past the routes'
    )


def test_own_keepalive_is_fine_where_all_of_the_host_goes_to_one_backend():
    text = routes(
        "backend = 'a', path = '/x', host = 'x'",
        "backend = 'a', host = 'x', keepalive = 'own'",
        "backend = 'b', host = 'y', keepalive = 'own'",
    )
    assert parse(text).routes[1].keepalive is config.Keepalive.OWN


def test_route_that_cannot_be_read_hides_no_other():
    [error] = errors_of(routes("backend = 'a', host = 7", "backend = 'b', host = 'x'"))
    assert "host" in error


# --- [backend.NAME]


def backend(address):
    return f"{NO_BACKENDS}[backend.app]\naddress = '{address}'"


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


def test_backend_name_is_plain():
    text = NO_BACKENDS + "[backend.app]\naddress = 'unix:@x'\n[backend.'a b']\naddress = 'unix:@y'"
    assert error_of(text) == (
        'k.toml:6: backend."a b": expected a name of at most 64 letters, digits, "_", "-" and ".",'
        ' got "a b"'
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


# --- flags


def test_flags_alone_make_a_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = config_from_flags(
        Flags(
            listen=(":8443", "[::1]:1"),
            cert="c.pem",
            key="/k.pem",
            backend="unix:app.sock",
            ktls="off",
            log_level="debug",
            log_format="text",
            log_file="log",
        )
    )
    assert made == config.Config(
        listeners=(
            config.Listener(address=":8443", ktls=config.KtlsPolicy.OFF),
            config.Listener(address="[::1]:1", ktls=config.KtlsPolicy.OFF),
        ),
        routes=(
            config.Route(backend=config.Backend(name="backend", address=f"{tmp_path}/app.sock")),
        ),
        certificate=config.Certificate(file=f"{tmp_path}/c.pem", key="/k.pem"),
        logging=config.Logging(level="debug", format=config.LogFormat.TEXT, file=f"{tmp_path}/log"),
    )


def test_complaints_about_flags_name_the_flag():
    with pytest.raises(ConfigError) as caught:
        config_from_flags(Flags(listen=(":x",), backend="tcp:1", ktls="of", key="k"))
    assert caught.value.errors == (
        '--ktls: expected "require", "prefer" or "off", got "of"; did you mean "off"?',
        f'--listen: expected {FORMS}, got ":x"',
        (
            '--backend: expected "unix:/PATH" or "unix:@NAME", got "tcp:1":'
            " sockets are given away on Unix sockets only"
        ),
        "--key: expected this key in [[cert]], got none",
    )


def test_flags_alone_say_what_is_missing():
    with pytest.raises(ConfigError) as caught:
        config_from_flags(Flags(listen=(":1",)))
    assert caught.value.errors == (
        "--listen: expected a [[cert]] table or --cert for a listener with tls = true, got none",
        "command line: route: expected at least one [[route]] table or --backend, got none",
    )


def test_flags_win_over_the_file():
    flags = Flags(
        listen=(":9",),
        cert="/c",
        backend="unix:@z",
        ktls="off",
        log_level="error",
        log_file="stdout",
    )
    parsed = parse(EVERY_KEY, flags)
    assert parsed.listeners == (config.Listener(address=":9", ktls=config.KtlsPolicy.OFF),)
    assert parsed.certificate == config.Certificate(file="/c")
    assert [route.backend.address for route in parsed.routes] == ["@z"]
    assert (parsed.logging.level, parsed.logging.file) == ("error", "stdout")
    assert parsed.limits.max_connections == 5


def test_ktls_flag_is_stronger_than_single_listeners():
    text = f"{NO_LISTENERS}listen = [{{ address = ':1', tls = false, ktls = 'require' }}]"
    assert parse(text, Flags(ktls="off")).listeners[0].ktls is config.KtlsPolicy.OFF


def test_key_flag_goes_with_the_certificate_of_the_file():
    text = REST + "[[cert]]\nfile = '/c'\nkey = '/old'"
    assert parse(text, Flags(key="/k")).certificate == config.Certificate(file="/c", key="/k")


# --- anything at all

JUNK = st.recursive(
    st.sampled_from(
        ["1", "0", "-1.5", "true", '"x"', '"/"', '":1"', '"unix:@x"', '"app"', "nan", "07:00:00"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["address", "backend", "host", "path", "file", "tls", "app", "x"]),
            inner,
            max_size=3,
        ).map(lambda items: "{" + ", ".join(f"{k} = {v}" for k, v in items.items()) + "}"),
    ),
    max_leaves=8,
)
TOP_KEYS = ["ktls", "limits", "tls", "cert", "listen", "route", "backend", "log_file", "x"]


@given(st.dictionaries(st.sampled_from(TOP_KEYS), JUNK), st.booleans())
def test_any_document_is_a_config_or_a_config_error(document, with_flags):
    text = "\n".join(f"{key} = {value}" for key, value in document.items())
    flags = Flags(key="k", ktls="off", listen=(":5",)) if with_flags else None
    complaints = ()
    try:
        parse(text, flags)
    except ConfigError as exc:
        complaints = exc.errors
    assert all(complaint.isprintable() for complaint in complaints)


def test_shipped_defaults_are_not_copied():
    """The numbers stand in config.py and nowhere else."""
    folder = Path(config.__file__).parent / "service"
    for module in folder.glob("config_*.py"):
        text = module.read_text()
        assert "10_000" not in text
        assert "TLS_AES_128_GCM_SHA256" not in text
