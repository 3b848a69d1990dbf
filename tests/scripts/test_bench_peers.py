"""The configurations: as equal as the programs allow, and read by the gate without complaint."""

from pathlib import Path

import pytest
from bench.peers import NGINX, PEERS, Peer, Site, absent_packages, is_installed

from ktlsgate.config import EngineChoice, KtlsPolicy
from ktlsgate.service.config_file import parse_config


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(
        folder=tmp_path / "own",
        port=18_001,
        certificate=tmp_path / "ec.crt",
        key=tmp_path / "ec.key",
        pair=tmp_path / "ec.pem",
        http=tmp_path / "http.sock",
        handoff=tmp_path / "handoff.sock",
        python="/bin/python3",
        is_keyless=True,
    )


def read(site, name):
    return parse_config(PEERS[name].configure(site), name="config", folder=site.folder)


@pytest.mark.parametrize(("name", "policy"), [("gate", "REQUIRE"), ("relay", "OFF")])
def test_the_gate_reads_its_configuration(site, name, policy):
    config = read(site, name)
    (listener,) = config.listeners
    assert (listener.address, listener.ktls) == ("127.0.0.1:18001", KtlsPolicy[policy])
    assert listener.engine is EngineChoice.DIRECT
    (route,) = config.routes
    assert route.backend.address == str(site.handoff)
    assert config.limits.max_connections == 20_000


def test_no_server_writes_a_line_for_each_connection(site):
    assert read(site, "gate").logging.level == "warning"
    assert "access_log off;" in PEERS["nginx"].configure(site)
    assert "debug = 3\n" in PEERS["stunnel"].configure(site)
    assert "log-level = 0\n" in PEERS["hitch"].configure(site)
    assert "\n  log " not in PEERS["haproxy"].configure(site)


PROXIES = {name: peer for name, peer in PEERS.items() if peer.program}


@pytest.mark.parametrize("name", PROXIES)
def test_every_peer_listens_on_its_port_and_knows_the_backends_socket(site, name):
    text = PEERS[name].configure(site)
    assert text.count("18001") == 1
    assert text.count(str(site.http)) == 1
    assert str(site.handoff) not in text


def test_nginx_with_ktls_differs_in_that_alone(site):
    plain, other = (PEERS[name].configure(site).splitlines() for name in ("nginx", "nginx-ktls"))
    added = [line for line in other if line not in plain]
    assert added == ["  ssl_conf_command Options KTLS;", "  sendfile on;"]
    assert [line for line in other if line not in added] == plain


@pytest.mark.parametrize("name", PROXIES)
def test_every_peer_has_the_certificate(site, name):
    text = PEERS[name].configure(site)
    assert (f"{site.pair}" in text) != (f"{site.certificate};" in text)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nginx", "worker_processes 1;"),
        ("nginx", "    keepalive 256;"),
        ("haproxy", "  nbthread 1"),
        ("haproxy-tcp", "  nbthread 1"),
        ("haproxy", "  http-reuse always"),
        ("haproxy", "  mode http"),
        ("haproxy-tcp", "  mode tcp"),
        ("hitch", "workers = 1"),
    ],
)
def test_one_worker_each_that_keeps_connections_where_it_can(site, name, line):
    assert line in PEERS[name].configure(site).splitlines()


def test_the_gate_is_started_keyless_only_where_no_kernel_takes_keys(site):
    file = Path("/x/config")
    keyless = ["/bin/python3", "-m", "bench.keyless_gate", "/x/config"]
    assert PEERS["gate"].command(site, file) == keyless
    real = ["/bin/python3", "-m", "ktlsgate", "run", "-c", "/x/config"]
    assert PEERS["relay"].command(site, file) == real


def test_nginx_is_the_first_and_what_is_compared_with():
    assert next(iter(PEERS)) == NGINX == "nginx"


def test_absent_packages_are_named_once_and_ours_never():
    def peer(name: str, program: str) -> Peer:
        return Peer(
            name=name,
            title=name,
            package="a-package",
            program=program,
            configure=str,
            command=lambda *_: [],
        )

    there, absent, too = peer("a", "sh"), peer("b", "no-such-program"), peer("c", "no-such-program")
    assert [is_installed(p) for p in (there, absent, PEERS["gate"])] == [True, False, True]
    assert absent_packages([there, absent, too, PEERS["gate"]]) == ["a-package"]
