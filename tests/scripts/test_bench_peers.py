"""The configurations: as equal as the programs allow, and read by the gate without complaint."""

import dataclasses
from pathlib import Path

import pytest
from bench.configs import Site, gate_config
from bench.growth import LADDERS
from bench.peers import NGINX, PEERS, Peer, absent_packages, in_newest, is_installed

from ktlsgate.config import EngineChoice, KtlsPolicy
from ktlsgate.service.config_file import parse_config


@pytest.fixture
def site(tmp_path) -> Site:
    return Site(
        folder=tmp_path / "own",
        port=18_001,
        group="X25519",
        certificate=tmp_path / "ec.crt",
        key=tmp_path / "ec.key",
        pair=tmp_path / "ec.pem",
        http=tmp_path / "http.sock",
        handoff=tmp_path / "handoff.sock",
        programs=tmp_path / "programs",
        python="/bin/python3",
        is_keyless=True,
        newest=tmp_path / "newest",
    )


GATES = ("gate", "gate-openssl", "gate-each")


def read(site, name):
    return parse_config(PEERS[name].configure(site), name="config", folder=site.folder)


@pytest.mark.parametrize(
    ("name", "policy", "engine"),
    [
        ("gate", "REQUIRE", "DIRECT"),
        ("gate-each", "REQUIRE", "DIRECT"),
        ("gate-openssl", "REQUIRE", "OPENSSL"),
        ("relay", "OFF", "DIRECT"),
    ],
)
def test_the_gate_reads_its_configuration(site, name, policy, engine):
    config = read(site, name)
    (listener,) = config.listeners
    assert (listener.address, listener.ktls) == ("127.0.0.1:18001", KtlsPolicy[policy])
    assert listener.engine is EngineChoice[engine]
    (route,) = config.routes
    assert route.backend.address == str(site.handoff)
    assert route.hosts == ("localhost",)
    assert config.limits.max_connections == 20_000


def test_the_gate_keeps_as_many_connections_to_the_backend_as_proxies_do(site):
    kept = {name: read(site, name).routes[0].backend.kept_connections for name in GATES}
    assert kept == {"gate": 256, "gate-openssl": 256, "gate-each": 0}
    assert " keepalive 256;\n" in PEERS["nginx"].configure(site)
    assert " pool-max-conn 256\n" in PEERS["haproxy"].configure(site)


def test_a_gate_can_have_other_routes_in_front_of_the_one_that_is_taken(site):
    config = parse_config(gate_config(site, other_hosts=2), name="config", folder=site.folder)
    hosts = [route.hosts for route in config.routes]
    assert hosts == [("host-0.example",), ("host-1.example",), ("localhost",)]
    assert config.limits == read(site, "gate").limits


def test_a_gate_can_wait_longer_for_a_handshake(site):
    text = gate_config(site, handshake_timeout=3600)
    config = parse_config(text, name="config", folder=site.folder)
    assert config.limits.handshake_timeout == 3600


@pytest.mark.parametrize("size", LADDERS["routes"].sizes)
def test_a_step_of_routes_has_so_many(site, size):
    text = LADDERS["routes"].peer(size).configure(site)
    config = parse_config(text, name="config", folder=site.folder)
    assert len(config.routes) == size


@pytest.mark.parametrize(("name", "mode"), [("shaking", "half"), ("held", "idle")])
def test_steps_of_what_is_held_differ_in_nothing_else(site, name, mode):
    ladder = LADDERS[name]
    assert ladder.mode == mode
    texts = {ladder.peer(size).configure(site) for size in ladder.sizes}
    assert texts == {gate_config(site, handshake_timeout=3600)}


def test_a_step_is_the_gate_under_another_name():
    for ladder in LADDERS.values():
        names = [ladder.peer(size).name for size in ladder.sizes]
        assert names == [f"{ladder.name}-{size}" for size in ladder.sizes]
        assert ladder.peer(1).command is PEERS["gate"].command
        assert ladder.peer(1).hands_over


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
def test_every_peer_offers_the_one_group(site, name):
    site = dataclasses.replace(site, group="X25519MLKEM768")
    assert PEERS[name].configure(site).count("X25519MLKEM768") == 1


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


def test_the_floor_is_told_everything_on_its_command_line(site):
    words = PEERS["floor"].command(site, Path("/x/config"))
    assert words == [
        str(site.programs / "floor"), "18001", str(site.certificate), str(site.key),
        str(site.handoff),
    ]  # fmt: skip
    assert PEERS["floor"].configure(site) == ""


NEWER = {name: peer for name, peer in PEERS.items() if peer.is_newest}


def test_three_are_there_from_a_newer_distribution_too():
    assert list(NEWER) == ["nginx-new", "floor-new", "haproxy-new"]


@pytest.mark.parametrize("name", NEWER)
def test_a_newer_program_differs_in_its_loader_and_libraries_alone(site, name):
    older, file = PEERS[name.removesuffix("-new")], Path("/x/config")
    assert NEWER[name].configure(site) == older.configure(site)
    program, *words = older.command(site, file)
    place = site.newest
    loader = [
        f"{place}/ld.so",
        "--library-path",
        f"{place}/lib",
        f"{place}/bin/{Path(program).name}",
    ]
    assert NEWER[name].command(site, file) == [*loader, *words]
    assert is_installed(NEWER[name]), "nobody asks the distribution for it"


def test_without_newer_libraries_a_program_is_itself():
    assert in_newest(None, "nginx") == ["nginx"]


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
