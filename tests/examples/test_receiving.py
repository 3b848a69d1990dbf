"""The page for who writes a receiver says what the code does, name by name."""

import pathlib
import re

import pytest

from ktlsgate.config import Dialect
from ktlsgate.kernel import ktls, records
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handoff import FINISHED, RECEIVED, Handoff, Mode, TlsFacts
from ktlsgate.wire.handoff_scgi import MAX_HEAD, encode
from ktlsgate.wire.http_head import HeadLimits, scan_head
from ktlsgate.wire.key_schedule import TrafficSecret, TrafficSecrets
from ktlsgate.wire.messages import CLOSE_NOTIFY, HandshakeType
from ktlsgate.wire.records import ContentType

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs/receiving.md").read_text()
CIPHER = "TLS_AES_128_GCM_SHA256"
REQUEST = b"POST /x?y=1 HTTP/1.1\r\nHost: h\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\n"


def names_sent(mode, *, is_bare=False):
    """The names of a handoff in their order, with everything that there can be, or nothing."""
    head, _ = scan_head(REQUEST.replace(b"Content-Type: a/b\r\n", b"") if is_bare else REQUEST,
                        limits=HeadLimits())  # fmt: skip
    secret = TrafficSecret(secret=bytes(32), suite=SUITES[CIPHER])
    handoff = Handoff(
        head=head,
        mode=mode,
        tls=None if is_bare else TlsFacts(protocol="TLSv1.3", cipher=CIPHER),
        remote=("192.0.2.7", 40000),
        local=("192.0.2.1", 443),
        is_single=False,
        secrets=None if is_bare else TrafficSecrets(tx=secret, rx=secret),
    )
    body = encode(handoff, Dialect.KTLSGATE, is_kept=not is_bare).partition(b":")[2]
    return [name.decode() for name in body.split(b"\0")[:-1:2]]


def names_told():
    """The page's names with the question mark or without, and the block's last line."""
    (block,) = re.findall(r"^```\n(CONTENT_LENGTH.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    *lines, last = block.splitlines()
    assert last.startswith("HTTP_...")
    return [re.match(r"([A-Z_]+)( \?)?", line).groups() for line in lines]


def test_the_names_are_those_that_are_sent_in_that_order():
    sent = [name for name in names_sent(Mode.BOTH) if not name.startswith("HTTP_")]
    assert [name for name, _ in names_told()] == sent


def test_the_names_without_a_question_mark_are_always_sent():
    always = [name for name, mark in names_told() if not mark]
    sent = names_sent(Mode.PLAIN, is_bare=True)
    assert [name for name in sent if not name.startswith("HTTP_")] == always


def test_the_headers_come_last():
    sent = names_sent(Mode.BOTH)
    assert sent[-3:] == ["HTTP_HOST", "HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"]


def test_the_modes_are_those_that_there_are():
    (_, table) = PAGE.split("| `KTLSGATE_MODE` | the descriptor |")
    told = re.findall(r"^\| `([a-z]+)` \|", table, re.MULTILINE)
    assert sorted(told) == sorted(mode.value for mode in Mode)


NUMBERS = f"""
RECEIVED, the byte `{RECEIVED.hex()}`
FINISHED, the byte `{FINISHED.hex()}`
is at most {MAX_HEAD}.
`SOL_TLS` {ktls.SOL_TLS}, `TLS_GET_RECORD_TYPE` {records._GET_RECORD_TYPE}, one byte
`SOL_TLS` {ktls.SOL_TLS}, `TLS_SET_RECORD_TYPE` {records._SET_RECORD_TYPE}, one byte {ContentType.ALERT}
the bytes `{CLOSE_NOTIFY.hex(" ")}` with
Type {ContentType.HANDSHAKE} is a handshake message: if its first byte is `{HandshakeType.KEY_UPDATE:02x}`
"""


@pytest.mark.parametrize("words", NUMBERS.strip().splitlines())
def test_the_numbers_are_the_codes(words):
    assert words in " ".join(PAGE.split())


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def test_the_readme_leads_to_the_page():
    assert "[docs/receiving.md](docs/receiving.md)" in (ROOT / "README.md").read_text()
