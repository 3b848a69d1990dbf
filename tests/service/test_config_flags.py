"""Flags make a configuration, win over the file, and are named in complaints."""

import pytest
from helpers.config_text import EVERY_KEY, FORMS, NO_LISTENERS, REST, parse

from ktlsgate import config
from ktlsgate.errors import ConfigError
from ktlsgate.service.config_file import config_from_flags
from ktlsgate.service.config_flags import Flags


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
            config.Route(
                backend=config.Backend(name="backend", addresses=(f"{tmp_path}/app.sock",))
            ),
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
