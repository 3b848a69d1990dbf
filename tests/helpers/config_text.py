"""Configuration texts for tests, and what becomes of them."""

import re

import pytest

from ktlsgate.errors import ConfigError
from ktlsgate.service.config_file import parse_config

# One line for each part, and a blank one for the part that a test writes itself in line 4.
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


def parse(text, flags=None):
    return parse_config(text, name="k.toml", folder="/etc/ktlsgate", flags=flags)


def errors_of(text, flags=None):
    with pytest.raises(ConfigError) as caught:
        parse(text, flags)
    return list(caught.value.errors)


def error_of(text):
    [error] = errors_of(text)
    return error


def routes(*tables):
    """Backends a and b, and [[route]] tables, each written as "key = value, key = value"."""
    head = (
        "backend.a.address = 'unix:@a'\nbackend.b.address = 'unix:@b'\n"
        "listen = [{ address = ':1', tls = false }]\n"
    )
    return head + "\n".join(
        "[[route]]\n" + re.sub(", (?=[a-z_]+ =)", "\n", table.removesuffix(", "))
        for table in tables
    )


def backend(address):
    return f"{NO_BACKENDS}[backend.app]\naddress = '{address}'"


FORMS = '"HOST:PORT", "[V6]:PORT", "*:PORT" or ":PORT"'
HOST_FORMS = 'a host name such as "example.com", "*.example.com" or "*"'

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
engine = "direct"

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
offload = "none"

[[route]]
backend = "b.2"
share_secrets = true

[backend.app]
address = "unix:run/app.sock"
dialect = "nginx"
peer_uid = 33

[backend."b.2"]
address = ["unix:@two", "unix:@three"]
rx_fallback = "pair"
fail_timeout = "1m"
absence_timeout = 2
peer_uid = "root"
kept_connections = 8
"""
