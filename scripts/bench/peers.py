"""Who is measured: the gate in two ways, and the peers, each with the configuration it is given.

The same for all: one worker, X25519 and AES-128-GCM (the client offers nothing else), OpenSSL's two
stateless tickets, no log line for a connection, the backend on a Unix socket. Proxies keep
connections to the backend where they can. A server has one certificate, so that each has a process
for each kind of key.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NGINX", "PEERS", "SYSTEM_PATH", "Peer", "Site", "absent_packages", "is_installed"]

NGINX = "nginx"  # what all others are compared with

_MANY = 20_000  # connections; what holds fewer stops at its limit of open files


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where one server finds its things.

    Attributes:
        folder: its own, for whatever it writes.
        port: on 127.0.0.1.
        certificate: a PEM file.
        key: a PEM file.
        pair: one with both.
        http: the backend's Unix socket for requests.
        handoff: the same for handoffs.
        python: the interpreter that runs the gate.
        is_keyless: whether the gate is to be told that the kernel took its keys.
    """

    folder: Path
    port: int
    certificate: Path
    key: Path
    pair: Path
    http: Path
    handoff: Path
    python: str
    is_keyless: bool


def _gate_config(site: Site, ktls: str) -> str:
    return f"""\
ktls = "{ktls}"
log_level = "warning"
log_format = "text"
[limits]
max_connections = {_MANY}
[[cert]]
file = "{site.certificate}"
key = "{site.key}"
[[listen]]
address = "127.0.0.1:{site.port}"
engine = "direct"
[[route]]
backend = "bench"
[backend.bench]
address = "unix:{site.handoff}"
"""


def gate_config(site: Site) -> str:
    """Hand over."""
    return _gate_config(site, "require")


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
  ssl_ecdh_curve X25519;
  ssl_certificate {site.certificate};
  ssl_certificate_key {site.key};
{more}  upstream backend {{
    server unix:{site.http};
    keepalive 256;
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
  ssl-default-bind-curves X25519
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
  server backend unix@{site.http} pool-max-conn 256
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
curves = X25519
TIMEOUTidle = 600
"""


def _nginx(site: Site, file: Path) -> list[str]:
    return ["nginx", "-p", str(site.folder), "-c", str(file), "-e", f"{site.folder}/nginx.err"]


def _gate(site: Site, file: Path) -> list[str]:
    if site.is_keyless:
        return [site.python, "-m", "bench.keyless_gate", str(file)]
    return _relay(site, file)


def _relay(site: Site, file: Path) -> list[str]:
    return [site.python, "-m", "ktlsgate", "run", "-c", str(file)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A kind of server.

    Attributes:
        name: what it is called in options and results.
        title: what it is called in tables.
        package: Debian's; empty for our own.
        program: what must be there to start it; empty for our own.
        configure: writes its configuration.
        command: starts it, in the foreground.
        hands_over: whether the client's socket leaves it.
        descriptors: that it needs for each connection held.
        needs_ktls: whether without a kernel's kTLS it is the same as another one.
    """

    name: str
    title: str
    configure: Callable[[Site], str]
    command: Callable[[Site, Path], list[str]]
    package: str = ""
    program: str = ""
    hands_over: bool = False
    descriptors: int = 2
    needs_ktls: bool = False


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name=NGINX,
            title="nginx",
            package="nginx",
            program="nginx",
            configure=nginx_config,
            command=_nginx,
        ),
        Peer(
            name="nginx-ktls",
            title="nginx with kTLS",
            package="nginx",
            program="nginx",
            configure=nginx_ktls_config,
            command=_nginx,
            needs_ktls=True,
        ),
        Peer(
            name="gate",
            title="ktlsgate, handing over",
            configure=gate_config,
            command=_gate,
            hands_over=True,
            descriptors=0,
        ),
        Peer(
            name="relay",
            title="ktlsgate, relaying",
            configure=relay_config,
            command=_relay,
            descriptors=3,
        ),
        Peer(
            name="haproxy",
            title="haproxy http",
            package="haproxy",
            program="haproxy",
            configure=haproxy_config,
            command=lambda _, file: ["haproxy", "-db", "-f", str(file)],
        ),
        Peer(
            name="haproxy-tcp",
            title="haproxy tcp",
            package="haproxy",
            program="haproxy",
            configure=haproxy_tcp_config,
            command=lambda _, file: ["haproxy", "-db", "-f", str(file)],
        ),
        Peer(
            name="hitch",
            title="hitch",
            package="hitch",
            program="hitch",
            configure=hitch_config,
            command=lambda _, file: ["hitch", f"--config={file}"],
        ),
        Peer(
            name="stunnel",
            title="stunnel",
            package="stunnel4",
            program="stunnel4",
            configure=stunnel_config,
            command=lambda _, file: ["stunnel4", str(file)],
        ),
    )
}


SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


def is_installed(peer: Peer) -> bool:
    """Whether its program is there; ours always is."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"  # users' own have no sbin
    return not peer.program or shutil.which(peer.program, path=path) is not None


def absent_packages(peers: Sequence[Peer]) -> list[str]:
    """Return the packages of those that are not there."""
    return sorted({peer.package for peer in peers if not is_installed(peer)})
