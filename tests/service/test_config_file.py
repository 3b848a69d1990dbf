"""The operator's file becomes a Config, or a complaint with a line for every mistake."""

import dataclasses
import os
from pathlib import Path

import pytest
from helpers.config_text import (
    EVERY_KEY,
    NO_BACKENDS,
    NO_LISTENERS,
    NO_ROUTES,
    REST,
    error_of,
    errors_of,
    parse,
)
from helpers.properties import given, st

from ktlsgate import config
from ktlsgate.errors import ConfigError
from ktlsgate.service.config_file import load_config
from ktlsgate.service.config_flags import Flags

APP = config.Backend(name="app", addresses=("/run/app.sock",))


def test_every_key_reaches_its_value():
    app = config.Backend(
        name="app",
        addresses=("/etc/ktlsgate/run/app.sock",),
        dialect=config.Dialect.NGINX,
        peer_uid=33,
    )
    assert parse(EVERY_KEY) == config.Config(
        listeners=(
            config.Listener(
                address="[::]:443",
                ktls=config.KtlsPolicy.REQUIRE,
                engine=config.EngineChoice.DIRECT,
            ),
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
                offload=config.Offload.NONE,
            ),
            config.Route(
                backend=config.Backend(
                    name="b.2",
                    addresses=("@two", "@three"),
                    peer_uid=0,
                    kept_connections=8,
                    rx_fallback=config.RxFallback.PAIR,
                    fail_timeout=60.0,
                    absence_timeout=2.0,
                ),
                share_secrets=True,
            ),
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


def test_empty_file_says_what_is_needed():
    assert errors_of("") == [
        "k.toml: listen: expected at least one [[listen]] table or --listen, got none",
        "k.toml: route: expected at least one [[route]] table or --backend, got none",
    ]


def test_lowest_version_above_the_highest_is_a_complaint():
    text = REST + '[tls]\nmin_version = "TLSv1.3"\nmax_version = "TLSv1.2"'
    assert error_of(text) == (
        'k.toml:5: tls.min_version: expected at most max_version "TLSv1.2", got "TLSv1.3"'
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


def test_route_needs_a_backend():
    assert error_of(NO_ROUTES + "route = [{}]") == (
        "k.toml:3: route.backend: expected this key in [[route]], got none"
    )


def test_backend_that_is_wrong_in_itself_is_still_known_to_routes():
    text = NO_BACKENDS + "backend.app.address = 5"
    assert error_of(text) == (
        'k.toml:4: backend.app.address: expected "unix:/PATH", "unix:@NAME" or a list of them, got 5'
    )


def test_backend_name_is_plain():
    text = NO_BACKENDS + "[backend.app]\naddress = 'unix:@x'\n[backend.'a b']\naddress = 'unix:@y'"
    assert error_of(text) == (
        'k.toml:6: backend."a b": expected a name of at most 64 letters, digits, "_", "-" and ".",'
        ' got "a b"'
    )


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
    modules = {module.name: module.read_text() for module in folder.glob("config_*.py")}
    assert "config_values.py" in modules
    for default in ("10_000", "TLS_AES_128_GCM_SHA256"):
        assert default in Path(config.__file__).read_text()
        assert [name for name, text in modules.items() if default in text] == []
