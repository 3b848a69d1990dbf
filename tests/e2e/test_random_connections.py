"""Many connections of random shape over both engines, and not one failure.

``KTLSGATE_RANDOM`` is how many (60), ``KTLSGATE_SEED`` repeats a run; pytest's header
says both.
"""

import contextlib
import json
import random
from dataclasses import dataclass

import pytest
from helpers.backends import digest, pattern
from helpers.clients import body_of, client_context, request
from helpers.engines import engine_offload, why_no_openssl
from helpers.front import ALL_CIPHERS, KTLS_LABELS, start_front
from helpers.randomness import random_count, random_seed

from ktlsgate.config import Offload
from ktlsgate.kernel.engines import Engine

_CIPHERS = {
    "TLSv1.2": (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-CCM",
        "ECDHE-ECDSA-AES128-SHA256",
    ),
    "TLSv1.3": (
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_AES_128_CCM_SHA256",
    ),
}


@dataclass(frozen=True)
class Shape:
    """One connection to be."""

    engine: Engine
    waits: bool  # the keys wait for the route; only engine direct can
    version: str
    cipher: str
    segment: int  # bytes in one send of handshake and head; 0 for all
    record: int  # bytes of the request in one record; 0 for 16384
    resumes: bool
    glued: bool  # the request goes out with our last flight
    size: int  # of the body
    answer: int  # bytes of an answer by sendfile; 0 asks for the body's hash
    ending: str  # how our side ends behind the request

    @classmethod
    def draw(cls, dice, engines):
        engine = dice.choice(engines)
        version = dice.choice(sorted(_CIPHERS))
        segment, glued = dice.choice((0, 0, 1, 7, 40, 536, 1460)), dice.random() < 0.5
        size = dice.choice((0, 0, 1, 17, 16_384, dice.randrange(70_000)))
        return cls(
            engine=engine,
            waits=engine is Engine.DIRECT and dice.random() < 0.3,
            version=version,
            cipher=dice.choice(_CIPHERS[version]),
            segment=segment,
            record=dice.choice((0, 0, 100, 1_000, 5_000)),
            resumes=dice.random() < 0.4,
            glued=glued,
            # Seventy thousand segments of one byte would test nothing but patience.
            size=min(size, 500 * segment) if glued and segment else size,
            answer=dice.choice((0, 0, 1, 16_384, 16_385, dice.randrange(300_000))),
            ending=dice.choice(("open", "open", "fin", "close_notify")),
        )

    @property
    def has_trailing(self):
        """Whether head and body share a record."""
        return self.glued and not self.record and self.size > 0

    @property
    def offload(self):
        """What the kernel is to hold."""
        most = Offload.TX if self.waits and self.has_trailing else Offload.BOTH
        return engine_offload(self.engine, self.cipher).at_most(most)

    def context(self):
        if self.version == "TLSv1.2":
            return client_context(version=self.version, ciphers=f"{self.cipher}:@SECLEVEL=0")
        return client_context(version=self.version, suites=self.cipher)


class Run:
    """Connects by shapes; remembers sessions."""

    def __init__(self, fronts):
        self.fronts = fronts
        self.sessions = {}
        self.contexts = {}

    def connect(self, shape):
        key = shape.engine, shape.version, shape.cipher
        front = self.fronts[shape.engine]
        context = self.contexts.setdefault(key, shape.context())
        session = self.sessions.get(key) if shape.resumes else None
        path = f"/big?n={shape.answer}" if shape.answer else "/hash"
        target = front.target(path)
        body = pattern(shape.size)
        data = request(target, f"Content-Length: {len(body)}", method="POST")
        name = "waits.example" if shape.waits else "localhost"
        with front.client(context, session=session, segment=shape.segment, sni=name) as client:
            self._send(client, shape, data, body)
            answer = body_of(client.read_all()[0])
            self.sessions[key] = client.tls.get_session()
            resumed = client.is_resumed
        if shape.answer:
            assert answer == pattern(shape.answer)
        else:
            assert json.loads(answer) == {"size": shape.size, "sha256": digest(body)}
        self._check(shape, front.report(target), is_resumed=resumed)
        assert resumed == bool(session)

    def _send(self, client, shape, head, body):
        client.handshake(glued=head + body if shape.glued and not shape.record else b"")
        if not shape.glued or shape.record:
            client.send(head, records=shape.record)
            client.segment = 0
            if body:
                client.send(body, records=shape.record)
        if shape.ending == "close_notify":
            client.close_notify()
        if shape.ending != "open":
            client.half_close()

    def _check(self, shape, report, *, is_resumed):
        offload = shape.offload
        assert report["engine"] == shape.engine.value
        assert report["event"] == ("handoff" if offload is Offload.BOTH else "relay")
        assert (report["tls"], report["cipher"]) == (shape.version, shape.cipher)
        assert report["ktls"] == KTLS_LABELS[offload]
        assert report.get("resumed", False) == is_resumed


# For "waits.example" the path decides, so its keys wait for the head. In nginx's dialect the
# gate does not wait a second, in mode tx, for a first word that this backend never says.
_CONFIG = """
log_format = "json"
[tls]
{tls}
[[cert]]
file = "{{folder}}/server.pem"
key = "{{folder}}/server.key"
[[listen]]
address = "127.0.0.1:0"
engine = "{engine}"
{route}
[[route]]
backend = "app"
[backend.app]
address = "{{backend}}"
dialect = "nginx"
"""
_WAITING_ROUTE = """
[[route]]
host = "waits.example"
path = "/never"
offload = "none"
backend = "app"
"""


@pytest.fixture(scope="module")
def fronts(tmp_path_factory):
    """A gate for each engine that works here."""
    engines = [Engine.DIRECT] if why_no_openssl() else list(Engine)
    with contextlib.ExitStack() as stack:
        fronts = {}
        for engine in engines:
            route = _WAITING_ROUTE if engine is Engine.DIRECT else ""
            config = _CONFIG.format(tls=ALL_CIPHERS, engine=engine.value, route=route)
            folder = tmp_path_factory.mktemp(engine.value)
            fronts[engine] = stack.enter_context(start_front(folder, config=config))
        yield fronts


@pytest.mark.slow
def test_no_connection_of_any_shape_fails(fronts):
    dice = random.Random(random_seed())
    run = Run(fronts)
    failures = []
    for number in range(random_count()):
        shape = Shape.draw(dice, list(fronts))
        try:
            run.connect(shape)
        except Exception as exc:
            failures.append(f"{number}: {shape}: {type(exc).__name__}: {str(exc)[:300]}")
    assert not failures, "\n".join([f"seed {random_seed()}", *failures])
