"""What each server is told: its configuration, from where it finds its things.

The same for all: one worker, one key exchange and AES-128-GCM (the client offers nothing else),
OpenSSL's two stateless tickets, no log line for a connection, the backend on a Unix socket. Proxies
keep connections to the backend where they can, and so does the gate, but for the one that is there
to show what that is worth. A server has one certificate, so that each has a process for each kind
of key.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "Site",
    "gate_config",
    "gate_each_config",
    "haproxy_config",
    "haproxy_tcp_config",
    "hitch_config",
    "nginx_config",
    "nginx_ktls_config",
    "no_config",
    "openssl_gate_config",
    "relay_config",
    "stunnel_config",
]

_KEPT = 256  # idle connections to the backend
_MANY = 20_000  # connections; what holds fewer stops at its limit of open files


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where one server finds its things.

    Attributes:
        folder: its own, for whatever it writes.
        port: on 127.0.0.1.
        group: for the key exchange, as OpenSSL calls it.
        certificate: a PEM file.
        key: a PEM file.
        pair: one with both.
        http: the backend's Unix socket for requests.
        handoff: the same for handoffs.
        programs: the folder of what was compiled.
        python: the interpreter that runs the gate.
        is_keyless: whether the gate is to be told that the kernel took its keys.
        newest: the folder of a newer distribution's programs, if there is one.
    """

    folder: Path
    port: int
    group: str
    certificate: Path
    key: Path
    pair: Path
    http: Path
    handoff: Path
    programs: Path
    python: str
    is_keyless: bool
    newest: Path | None


def _gate_config(
    site: Site,
    ktls: str,
    *,
    engine: str = "direct",
    limits: str = "",
    routes: str = "",
    kept: int = _KEPT,
) -> str:
    return f"""\
ktls = "{ktls}"
log_level = "warning"
log_format = "text"
[limits]
max_connections = {_MANY}
{limits}[[cert]]
file = "{site.certificate}"
key = "{site.key}"
[[listen]]
address = "127.0.0.1:{site.port}"
engine = "{engine}"
{routes}[[route]]
host = "localhost"
backend = "bench"
[backend.bench]
address = "unix:{site.handoff}"
kept_connections = {kept}
"""


def gate_config(site: Site, *, other_hosts: int = 0, handshake_timeout: int = 0) -> str:
    """Hand over.

    Args:
        site: where things are.
        other_hosts: that have routes in front of the one that is taken.
        handshake_timeout: seconds; 0 for the gate's own.
    """
    hosts = (f"host-{number}.example" for number in range(other_hosts))
    routes = "".join(f'[[route]]\nhost = "{host}"\nbackend = "bench"\n' for host in hosts)
    limits = f'handshake_timeout = "{handshake_timeout}s"\n' if handshake_timeout else ""
    return _gate_config(site, "require", limits=limits, routes=routes)


def gate_each_config(site: Site) -> str:
    """Hand over, with a connection to the backend for each handoff."""
    return _gate_config(site, "require", kept=0)


def openssl_gate_config(site: Site) -> str:
    """Hand over, with the keys that OpenSSL moves into the kernel."""
    return _gate_config(site, "require", engine="openssl")


def relay_config(site: Site) -> str:
    """Do what the gate does where there is no kTLS."""
    return _gate_config(site, "off")


def nginx_config(site: Site, more: str = "") -> str:
    """Terminate and proxy, with connections to the backend kept."""
    temporary = "".join(
        f"  {kind}_temp_path {site.folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
worker_processes 1;
worker_rlimit_nofile {_MANY};
pid {site.folder}/nginx.pid;
error_log {site.folder}/nginx.err crit;
events {{ worker_connections {_MANY}; multi_accept on; }}
http {{
  access_log off;
{temporary}  client_max_body_size 0;
  proxy_request_buffering off;
  proxy_max_temp_file_size 0;
  keepalive_requests 100000000;
  ssl_protocols TLSv1.3;
  ssl_ecdh_curve {site.group};
  ssl_certificate {site.certificate};
  ssl_certificate_key {site.key};
{more}  upstream backend {{
    server unix:{site.http};
    keepalive {_KEPT};
    keepalive_requests 100000000;
  }}
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  server {{
    listen 127.0.0.1:{site.port} ssl backlog=4096;
    location / {{
      proxy_pass http://backend;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Connection $connection_upgrade;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto https;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def nginx_ktls_config(site: Site) -> str:
    """Do the same, with the keys that OpenSSL moves into the kernel."""
    return nginx_config(site, "  ssl_conf_command Options KTLS;\n  sendfile on;\n")


def _haproxy_config(site: Site, mode: str, more: str) -> str:
    return f"""\
global
  nbthread 1
  maxconn {_MANY // 2 - 100}
  ssl-default-bind-options ssl-min-ver TLSv1.3
  ssl-default-bind-curves {site.group}
defaults
  mode {mode}
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
listen bench
  bind 127.0.0.1:{site.port} ssl crt {site.pair} backlog 4096
{more}"""


def haproxy_config(site: Site) -> str:
    """Proxy requests."""
    more = f"""\
  http-reuse always
  option forwardfor
  server backend unix@{site.http} pool-max-conn {_KEPT}
"""
    return _haproxy_config(site, "http", more)


def haproxy_tcp_config(site: Site) -> str:
    """Relay bytes."""
    return _haproxy_config(site, "tcp", f"  server backend unix@{site.http}\n")


def hitch_config(site: Site) -> str:
    """Relay bytes."""
    return f"""\
frontend = "[127.0.0.1]:{site.port}"
backend = "{site.http}"
pem-file = "{site.pair}"
workers = 1
backlog = 4096
tls-protos = TLSv1.3
user = "nobody"
group = "nogroup"
daemon = off
syslog = off
log-level = 0
write-proxy-v2 = off
ecdh-curve = "{site.group}"
"""


def stunnel_config(site: Site) -> str:
    """Relay bytes, with a thread for each connection."""
    return f"""\
foreground = yes
pid =
debug = 3
sslVersionMin = TLSv1.3
[bench]
accept = 127.0.0.1:{site.port}
connect = {site.http}
cert = {site.pair}
curves = {site.group}
TIMEOUTidle = 600
"""


def no_config(_: Site) -> str:
    """Be told everything on the command line."""
    return ""
