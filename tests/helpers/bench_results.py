"""Results of the bench as if something had been measured."""

from bench.growth import Step
from bench.idle import Held
from bench.leak import Leak
from bench.loads import Slice
from bench.results import Results
from bench.rounds import Series
from bench.syscalls import Calls

SERVERS = ["nginx", "gate", "relay", "haproxy", "haproxy-tcp"]


def one(
    cpu_us=0.0, *, operations=1000, errors=0, p50=500.0, gigabytes=0.0, backend_us=0.0, resumed=0
):
    """A slice whose operations cost so much."""
    return Slice(
        operations=operations,
        errors=errors,
        resumed=resumed,
        bytes=int(gigabytes * 1e9),
        wall=0.5,
        p50_us=p50,
        p99_us=2 * p50,
        first_error="receive: Connection reset by peer" if errors else "",
        server_cpu=cpu_us * operations / 1e6,
        backend_cpu=backend_us * operations / 1e6,
    )


def series(load, server, *slices):
    return Series(load=load, server=server, slices=dict(enumerate(slices)))


def bulk(cpu_seconds):
    """A slice of one gigabyte."""
    return one(cpu_seconds * 1e6, operations=1, gigabytes=1.0)


def held(server, asked, *, got=None, pss=0, rss=0, entries=0):
    return Held(
        server=server,
        asked=asked,
        held=asked if got is None else got,
        rss=40_000 + rss,
        pss=30_000 + pss,
        pss_before=30_000,
        descriptors=12,
        descriptors_before=10,
        epoll_entries=3 + entries,
        epoll_entries_before=3,
        first_error="",
    )


def step(ladder, size, *slices, held=0):
    return Step(ladder=ladder, size=size, held=held, slices=dict(enumerate(slices)))


def some_results() -> Results:
    """A run of two rounds with something of everything."""
    made = [
        series("conn", "nginx", one(200, backend_us=20), one(400, backend_us=20)),
        series("conn", "gate", one(220, backend_us=40), one(420, backend_us=40)),
        series("keep", "nginx", one(16), one(16)),
        series("keep", "gate", one(0.2, operations=1600), one(0.2, operations=1600)),
        series("keep", "relay", one(18, errors=2), one(18)),
        series("keep", "haproxy-tcp", one(15), one(15)),
        series("latency-1", "nginx", one(1, p50=600)),
        series("latency-1", "gate", one(1, p50=660)),
        series("down", "nginx", bulk(0.7)),
        series("down", "gate", bulk(0.0)),
        series("down", "relay", bulk(0.5)),
        series("down", "haproxy", bulk(0.5)),
    ]
    return Results(
        machine={"machine": "a machine", "peers": "nginx 1.26", "gate": ""},
        command="make bench ARGS=--quick",
        is_keyless=True,
        servers=SERVERS,
        notes=["left out: hitch: not installed (Debian: apt-get install hitch)"],
        series=made,
        growth=[
            step("routes", 1, one(500), one(400)),
            step("routes", 10, one(505), one(404)),
            step("routes", 1_000, one(600), one(480)),
            step("held", 0, one(500), one(500)),
            step("held", 1_000, one(500), one(500), held=990),
        ],
        idle=[
            held("nginx", 1_000, pss=50_000),
            held("gate", 1_000, rss=100),
            held("gate", 15_000, rss=356, entries=0),
            held("nginx", 15_000, got=9_990),
            held("nginx", 5_000, pss=250_000),
            held("relay", 5_000, pss=125_000),
        ],
        leaks=[
            Leak(
                server="gate",
                connections=50_000,
                errors=0,
                rss=(37_888, 37_900, 37_900, 37_990, 37_990),
                descriptors_before=10,
                descriptors=10,
            )
        ],
        calls=[
            Calls(server="gate", connections=100, calls={"recvfrom": 900, "brk": 3}),
            Calls(server="nginx", connections=100, calls={"read": 1850}),
        ],
    )
