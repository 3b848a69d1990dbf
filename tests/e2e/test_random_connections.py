"""Many connections of random shape, and not one failure.

``KTLSGATE_RANDOM`` is how many (60), ``KTLSGATE_SEED`` repeats a run.
"""

import json
import os
import random
from dataclasses import dataclass

import pytest
from helpers.backends import digest, pattern
from helpers.clients import body_of, client_context, request
from helpers.front import ALL_CIPHERS, KTLS_LABELS, expected_offload, start_front

_COUNT = int(os.environ.get("KTLSGATE_RANDOM", "60"))
_SEED = int(os.environ.get("KTLSGATE_SEED", "20261120"))

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
    def draw(cls, dice):
        version = dice.choice(sorted(_CIPHERS))
        return cls(
            version=version,
            cipher=dice.choice(_CIPHERS[version]),
            segment=dice.choice((0, 0, 1, 7, 40, 536, 1460)),
            record=dice.choice((0, 0, 100, 1_000, 5_000)),
            resumes=dice.random() < 0.4,
            glued=dice.random() < 0.5,
            size=dice.choice((0, 0, 1, 17, 16_384, dice.randrange(70_000))),
            answer=dice.choice((0, 0, 1, 16_384, 16_385, dice.randrange(300_000))),
            ending=dice.choice(("open", "open", "fin", "close_notify")),
        )

    def context(self):
        if self.version == "TLSv1.2":
            return client_context(version=self.version, ciphers=f"{self.cipher}:@SECLEVEL=0")
        return client_context(version=self.version, suites=self.cipher)


class Run:
    """Connects by shapes; remembers sessions."""

    def __init__(self, front):
        self.front = front
        self.sessions = {}
        self.contexts = {}

    def connect(self, shape):
        key = shape.version, shape.cipher
        context = self.contexts.setdefault(key, shape.context())
        session = self.sessions.get(key) if shape.resumes else None
        path = f"/big?n={shape.answer}" if shape.answer else "/hash"
        target = self.front.target(path)
        body = pattern(shape.size)
        data = request(target, f"Content-Length: {len(body)}", method="POST")
        with self.front.client(context, session=session, segment=shape.segment) as client:
            self._send(client, shape, data, body)
            answer = body_of(client.read_all()[0])
            self.sessions[key] = client.tls.get_session()
            resumed = client.is_resumed
        if shape.answer:
            assert answer == pattern(shape.answer)
        else:
            assert json.loads(answer) == {"size": shape.size, "sha256": digest(body)}
        self._check(shape, self.front.report(target), is_resumed=resumed)
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
        offload = expected_offload(shape.cipher)
        assert report["event"] == ("handoff" if KTLS_LABELS[offload] == "tx+rx" else "relay")
        assert (report["tls"], report["cipher"]) == (shape.version, shape.cipher)
        assert report["ktls"] == KTLS_LABELS[offload]
        assert report.get("resumed", False) == is_resumed


@pytest.fixture(scope="module")
def front(tmp_path_factory):
    with start_front(tmp_path_factory.mktemp("random"), tls=ALL_CIPHERS) as front:
        yield front


@pytest.mark.slow
def test_no_connection_of_any_shape_fails(front):
    dice = random.Random(_SEED)
    run = Run(front)
    failures = []
    for number in range(_COUNT):
        shape = Shape.draw(dice)
        try:
            run.connect(shape)
        except Exception as exc:
            failures.append(f"{number}: {shape}: {type(exc).__name__}: {str(exc)[:300]}")
    assert not failures, "\n".join([f"seed {_SEED}", *failures])
