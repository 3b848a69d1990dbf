"""The SCGI codec: nginx's captured bytes, our dialect behind them, and a strict reader."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from helpers.properties import given, st

from ktlsgate.config import Dialect
from ktlsgate.errors import HandoffMalformed
from ktlsgate.wire.ciphers import SUITES
from ktlsgate.wire.handoff import Handoff, Mode, TlsFacts
from ktlsgate.wire.handoff_scgi import MAX_HEAD, HandoffReader, ReceivedHead, encode
from ktlsgate.wire.http_head import HeadLimits, scan_head
from ktlsgate.wire.key_schedule import TrafficSecret, TrafficSecrets

REQUEST = (
    b"GET /a%20b?x=1&y=%2f HTTP/1.1\r\n"
    b"Host: localhost\r\nUser-Agent: t/1\r\nX-Dup: one\r\nX-Dup: two\r\n"
    b"Cookie: a=1\r\nCookie: b=2\r\nAccept: */*\r\n\r\n"
)
FACTS = TlsFacts(protocol="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")

# What nginx 1.22.1 to 1.30.6 sent for REQUEST (its fd_pass module, captured): plain HTTP,
# TLS with the kernel sending only, TLS in the kernel both ways.
_REST = (
    b"REQUEST_METHOD\0GET\0REQUEST_URI\0/a%20b?x=1&y=%2f\0SERVER_ADDR\x00127.0.0.1\0"
    b"SERVER_PORT\0%b\0QUERY_STRING\0x=1&y=%%2f\0HTTP_HOST\0localhost\0HTTP_USER_AGENT\0t/1\0"
    b"HTTP_X_DUP\0one\0HTTP_X_DUP\0two\0HTTP_COOKIE\0a=1\0HTTP_COOKIE\0b=2\0HTTP_ACCEPT\0*/*\0,"
).replace(b"a%20b?x=1&y=%2f", b"a%%20b?x=1&y=%%2f")
CAPTURED_HTTP = (
    b"300:CONTENT_LENGTH\x000\0SCGI\x001+fd_pass\0REMOTE_ADDR\x00127.0.0.1\0REMOTE_PORT\x0042990\0"
    + _REST % b"8080"
)
CAPTURED_TX = (
    b"319:CONTENT_LENGTH\x000\0SCGI\x001+fd_pass\0HTTPS\0on\0KTLS_RX\x000\0"
    b"REMOTE_ADDR\x00127.0.0.1\0REMOTE_PORT\x0034840\0" + _REST % b"8443"
)
CAPTURED_BOTH = (
    b"320:CONTENT_LENGTH\x000\0SCGI\x001+fd_pass\0HTTPS\0on\0KTLS_RX\x001\0"
    b"REMOTE_ADDR\x00127.0.0.1\0REMOTE_PORT\x0057182\0" + _REST % b"18443"
)


def parse(request):
    found = scan_head(request, limits=HeadLimits())
    assert found is not None
    return found[0]


def handoff(request=REQUEST, **changes):
    values = {
        "head": parse(request),
        "mode": Mode.BOTH,
        "tls": FACTS,
        "remote": ("192.0.2.7", 40000),
        "local": ("192.0.2.1", 443),
        "is_single": False,
    }
    return Handoff(**(values | changes))


def request(*lines, target="/", host="h"):
    head = [f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def pairs_of(encoded):
    length, _, rest = encoded.partition(b":")
    body, comma = rest[: int(length)], rest[int(length) :]
    assert comma == b","
    words = body.split(b"\0")
    assert words.pop() == b""
    return list(zip(words[::2], words[1::2], strict=True))


def ours(*args, **changes):
    return dict(pairs_of(encode(handoff(*args, **changes), Dialect.KTLSGATE)))


def netstring(*pairs):
    body = b"".join(b"%b\0%b\0" % pair for pair in pairs)
    return b"%d:%b," % (len(body), body)


def read(data):
    """Read a netstring as a receiver does; it must come out at the last byte."""
    reader = HandoffReader()
    while data:
        piece, data = data[: reader.wanted], data[reader.wanted :]
        head = reader.receive_data(piece)
        if head is not None:
            assert data == b""
            return head
    return None


# nginx's dialect


@pytest.mark.parametrize(
    ("captured", "changes"),
    [
        (
            CAPTURED_HTTP,
            {
                "mode": Mode.PLAIN,
                "tls": None,
                "remote": ("127.0.0.1", 42990),
                "local": ("127.0.0.1", 8080),
            },
        ),
        (
            CAPTURED_TX,
            {"mode": Mode.TX, "remote": ("127.0.0.1", 34840), "local": ("127.0.0.1", 8443)},
        ),
        (
            CAPTURED_BOTH,
            {"mode": Mode.BOTH, "remote": ("127.0.0.1", 57182), "local": ("127.0.0.1", 18443)},
        ),
    ],
    ids=["http", "ktls_rx_0", "ktls_rx_1"],
)
def test_nginx_dialect_is_nginxs_bytes(captured, changes):
    assert encode(handoff(**changes), Dialect.NGINX) == captured


def test_nginx_dialect_calls_a_relay_what_the_descriptor_is():
    """One end of a socketpair reads and writes plaintext, as KTLS_RX=1 promises."""
    pairs = dict(pairs_of(encode(handoff(mode=Mode.RELAY), Dialect.NGINX)))
    assert pairs[b"KTLS_RX"] == b"1"


def test_nginx_dialect_drops_names_with_an_underscore():
    sent = handoff(request("X_Y: evil", "X-Y: good"))
    names = [name for name, _ in pairs_of(encode(sent, Dialect.NGINX))]
    assert names[-2:] == [b"HTTP_HOST", b"HTTP_X_Y"]
    assert (b"HTTP_X_Y", b"good") in pairs_of(encode(sent, Dialect.NGINX))


# Our dialect

ALL_MODES = [Mode.PLAIN, Mode.BOTH, Mode.TX, Mode.RELAY]


@pytest.mark.parametrize("mode", ALL_MODES)
def test_our_dialect_begins_with_nginxs_block(mode):
    sent = handoff(mode=mode, tls=None if mode is Mode.PLAIN else FACTS)
    nginx, our = (pairs_of(encode(sent, dialect)) for dialect in (Dialect.NGINX, Dialect.KTLSGATE))
    block = [pair for pair in nginx if not pair[0].startswith(b"HTTP_")]
    assert our[: len(block)] == block
    assert block[-1][0] == b"QUERY_STRING"


def test_our_dialect_byte_for_byte():
    sent = handoff(
        request("Content-Type: text/plain", target="/x?y", host="App.Example:8443"),
        mode=Mode.TX,
        is_single=True,
        tls=TlsFacts(
            protocol="TLSv1.2",
            cipher="ECDHE-RSA-AES128-GCM-SHA256",
            sni="app.example",
            alpn="http/1.1",
            is_resumed=True,
        ),
    )
    assert encode(sent, Dialect.KTLSGATE) == netstring(
        (b"CONTENT_LENGTH", b"0"),
        (b"SCGI", b"1+fd_pass"),
        (b"HTTPS", b"on"),
        (b"KTLS_RX", b"0"),
        (b"REMOTE_ADDR", b"192.0.2.7"),
        (b"REMOTE_PORT", b"40000"),
        (b"REQUEST_METHOD", b"GET"),
        (b"REQUEST_URI", b"/x?y"),
        (b"SERVER_ADDR", b"192.0.2.1"),
        (b"SERVER_PORT", b"443"),
        (b"QUERY_STRING", b"y"),
        (b"SERVER_PROTOCOL", b"HTTP/1.1"),
        (b"SERVER_NAME", b"app.example"),
        (b"REQUEST_SCHEME", b"https"),
        (b"CONTENT_TYPE", b"text/plain"),
        (b"SSL_PROTOCOL", b"TLSv1.2"),
        (b"SSL_CIPHER", b"ECDHE-RSA-AES128-GCM-SHA256"),
        (b"SSL_TLS_SNI", b"app.example"),
        (b"SSL_ALPN", b"http/1.1"),
        (b"SSL_SESSION_RESUMED", b"Resumed"),
        (b"SSL_CLIENT_VERIFY", b"NONE"),
        (b"KTLSGATE", b"1"),
        (b"KTLSGATE_MODE", b"tx"),
        (b"KTLSGATE_KEEPALIVE", b"single"),
        (b"HTTP_HOST", b"App.Example:8443"),
        (b"HTTP_CONTENT_TYPE", b"text/plain"),
    )


def test_plain_http_has_no_tls_names():
    names = ours(mode=Mode.PLAIN, tls=None)
    assert not [name for name in names if name.startswith((b"SSL_", b"HTTPS", b"KTLS_"))]
    assert names[b"REQUEST_SCHEME"] == b"http"
    assert names[b"KTLSGATE_MODE"] == b"plain"


@pytest.mark.parametrize(
    ("mode", "ktls_rx"), [(Mode.BOTH, b"1"), (Mode.TX, b"0"), (Mode.RELAY, b"1")]
)
def test_mode_is_told_twice(mode, ktls_rx):
    names = ours(mode=mode)
    assert (names[b"KTLSGATE_MODE"], names[b"KTLS_RX"]) == (mode.value.encode(), ktls_rx)


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("is_kept", [True, False])
def test_that_the_connection_is_kept_is_told_in_our_dialect(dialect, is_kept):
    data = encode(handoff(mode=Mode.BOTH, tls=FACTS), dialect, is_kept=is_kept)
    is_told = is_kept and dialect is Dialect.KTLSGATE
    assert (b"\0KTLSGATE_CONNECTION\0kept\0" in data) == is_told
    assert read(data).is_kept == is_told


@pytest.mark.parametrize("mode", [Mode.TX, Mode.RELAY])
def test_reader_refuses_a_kept_connection_that_carries_more_than_heads(mode):
    data = encode(handoff(mode=mode, tls=FACTS), Dialect.KTLSGATE, is_kept=True)
    text = f"expected a connection of its own, got mode {mode.value} on a kept one"
    with pytest.raises(HandoffMalformed, match=f"^{text}$"):
        read(data)


@pytest.mark.parametrize(("is_single", "word"), [(True, b"single"), (False, b"own")])
def test_keepalive_is_told(is_single, word):
    assert ours(is_single=is_single)[b"KTLSGATE_KEEPALIVE"] == word


def test_names_are_unique_as_scgi_demands():
    pairs = pairs_of(encode(handoff(), Dialect.KTLSGATE))
    assert len(dict(pairs)) == len(pairs)


def test_repeated_headers_are_joined_at_the_place_of_the_first():
    pairs = pairs_of(encode(handoff(), Dialect.KTLSGATE))
    assert pairs[-5:] == [
        (b"HTTP_HOST", b"localhost"),
        (b"HTTP_USER_AGENT", b"t/1"),
        (b"HTTP_X_DUP", b"one, two"),
        (b"HTTP_COOKIE", b"a=1; b=2"),
        (b"HTTP_ACCEPT", b"*/*"),
    ]


def test_names_of_any_case_are_one_header():
    assert ours(request("x-a: 1", "X-A: 2", "X-a: 3"))[b"HTTP_X_A"] == b"1, 2, 3"


@pytest.mark.parametrize("name", ["Proxy", "proxy", "PROXY"])
def test_proxy_header_is_left_out(name):
    """HTTP_PROXY configures HTTP clients inside of the backend: CVE-2016-5385."""
    assert b"HTTP_PROXY" not in ours(request(f"{name}: evil.example:8080"))


def test_content_type_is_the_first_ones_and_its_header_holds_all():
    names = ours(request("CONTENT-type: text/plain", "Content-Type: text/html"))
    assert names[b"CONTENT_TYPE"] == b"text/plain"
    assert names[b"HTTP_CONTENT_TYPE"] == b"text/plain, text/html"
    assert b"CONTENT_TYPE" not in ours(request("Content_Type: text/plain"))


@pytest.mark.parametrize("name", ["Proxy", "proxy"])
def test_repeated_proxy_header_is_left_out(name):
    assert b"HTTP_PROXY" not in ours(request("Proxy: one", f"{name}: two", "X-A: 1"))


def test_headers_like_proxy_stay():
    assert ours(request("Proxy-Authorization: x"))[b"HTTP_PROXY_AUTHORIZATION"] == b"x"


def test_names_with_an_underscore_are_left_out():
    names = ours(request("X_Forwarded_For: evil", "X-Ok: 1"))
    assert b"HTTP_X_FORWARDED_FOR" not in names
    assert names[b"HTTP_X_OK"] == b"1"


def test_no_header_can_become_one_of_our_names():
    evil = ["KTLSGATE-MODE: x", "HTTPS: off", "SSL-CLIENT-VERIFY: SUCCESS", "Content-Length: 9"]
    with_headers, without = ours(request(*evil)), ours(request())
    assert {name: with_headers[name] for name in without} == without
    assert {name for name in with_headers if name not in without} == {
        b"HTTP_KTLSGATE_MODE", b"HTTP_HTTPS", b"HTTP_SSL_CLIENT_VERIFY", b"HTTP_CONTENT_LENGTH",
    }  # fmt: skip


def test_server_name_is_the_host_of_the_request_or_our_address():
    assert ours(request(host="a.example:1"))[b"SERVER_NAME"] == b"a.example"
    assert ours(b"GET / HTTP/1.0\r\n\r\n")[b"SERVER_NAME"] == b"192.0.2.1"


def test_empty_query_is_there():
    assert ours(request())[b"QUERY_STRING"] == b""


def test_values_keep_bytes_beyond_ascii():
    assert ours(request("X-A: \xe4\xff"))[b"HTTP_X_A"] == b"\xe4\xff"


def test_first_handshake_is_initial():
    assert ours()[b"SSL_SESSION_RESUMED"] == b"Initial"


def test_client_certificate_replaces_the_none():
    facts = TlsFacts(
        protocol="TLSv1.3",
        cipher="X",
        client_certificate=((b"SSL_CLIENT_VERIFY", b"SUCCESS"), (b"SSL_CLIENT_S_DN", b"CN=a")),
    )
    names = ours(tls=facts)
    assert names[b"SSL_CLIENT_VERIFY"] == b"SUCCESS"
    assert names[b"SSL_CLIENT_S_DN"] == b"CN=a"


# The reader


@pytest.mark.parametrize("captured", [CAPTURED_HTTP, CAPTURED_TX, CAPTURED_BOTH])
def test_reader_takes_nginxs_bytes(captured):
    head = read(captured)
    assert not head.is_ours
    assert not head.is_single
    assert head.environ["HTTP_X_DUP"] == "two"  # the last value, as documented


@pytest.mark.parametrize(
    ("captured", "mode"),
    [(CAPTURED_HTTP, Mode.PLAIN), (CAPTURED_TX, Mode.TX), (CAPTURED_BOTH, Mode.BOTH)],
)
def test_mode_of_a_sender_that_does_not_say_is_what_fd_pass_means(captured, mode):
    assert read(captured).mode is mode


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("is_single", [True, False])
def test_our_handoff_is_read_back(mode, is_single):
    tls = None if mode is Mode.PLAIN else FACTS
    head = read(encode(handoff(mode=mode, tls=tls, is_single=is_single), Dialect.KTLSGATE))
    assert (head.mode, head.is_single, head.is_ours) == (mode, is_single, True)
    assert head.remote == ("192.0.2.7", 40000)


TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)


@given(
    names=st.lists(st.from_regex(r"\A[A-Za-z][A-Za-z0-9-]{0,12}\Z"), max_size=12),
    values=st.lists(TEXT, min_size=12, max_size=12),
    dialect=st.sampled_from(list(Dialect)),
)
def test_every_header_survives_the_round_trip(names, values, dialect):
    lines = [f"X-{name}: {value}" for name, value in zip(names, values, strict=False)]
    sent = handoff(request(*lines))
    encoded = encode(sent, dialect)
    expected = {}
    for name, value in pairs_of(encoded):
        expected[name.decode()] = value.decode("latin-1")
    assert read(encoded) == ReceivedHead(expected)
    for name, value in sent.head.headers:
        key = "HTTP_" + name.decode().upper().replace("-", "_")
        assert value.decode() in expected[key] or dialect is Dialect.NGINX


@given(st.lists(st.integers(1, 90), min_size=1, max_size=20))
def test_any_split_equals_the_whole_and_nothing_behind_is_read(sizes):
    encoded = encode(handoff(), Dialect.KTLSGATE)
    whole = read(encoded)
    stream, reader = encoded + b"decrypted input", HandoffReader()
    position = 0
    for size in itertools.cycle(sizes):
        assert reader.wanted > 0
        piece = stream[position : position + min(size, reader.wanted)]
        position += len(piece)
        head = reader.receive_data(piece)
        if head is not None:
            assert (head, position) == (whole, len(encoded))
            return
        assert position < len(encoded)


REQUIRED = [
    (b"CONTENT_LENGTH", b"0"),
    (b"SCGI", b"1+fd_pass"),
    (b"REMOTE_ADDR", b"192.0.2.7"),
    (b"REMOTE_PORT", b"1"),
    (b"REQUEST_METHOD", b"GET"),
    (b"REQUEST_URI", b"/"),
    (b"SERVER_ADDR", b"192.0.2.1"),
    (b"SERVER_PORT", b"2"),
    (b"QUERY_STRING", b""),
]


def changed(**values):
    """The required names; None leaves one out, others are replaced or added."""
    pairs = dict(REQUIRED) | {key.encode(): value for key, value in values.items()}
    return netstring(*((name, value) for name, value in pairs.items() if value is not None))


def test_required_names_are_enough():
    assert read(netstring(*REQUIRED)).mode is Mode.PLAIN


MALFORMED = [
    # the netstring
    (b"x", "expected the length of a netstring, got b'x'"),
    (b":", "expected the length of a netstring, got b''"),
    (b"0:,", "expected the length of a netstring, got b'0'"),
    (b"01:", "expected the length of a netstring, got b'01'"),
    (b"-1:", "expected the length of a netstring, got b'-1'"),
    (b"+1:", "expected the length of a netstring, got b'+1'"),
    (b" 1:", "expected the length of a netstring, got b' 1'"),
    (b"12345678", "expected the length of a netstring, got b'12345678'"),
    (b"GET / HT", "expected the length of a netstring, got b'GET / HT'"),
    (b"\x1600000:", "expected the length of a netstring, got b'\\x1600000'"),
    (b"1048577:", "expected a head of at most 1048576 bytes, got 1048577"),
    (b"9999999:", "expected a head of at most 1048576 bytes, got 9999999"),
    (b"1:a,xxxx", "expected a head, got a netstring of 1 bytes"),
    (b"4:a\0b\0;", "expected a comma behind the head, got b';'"),
    # its words
    (b"3:a\0b,", "expected pairs of name and value, got an odd number of words"),
    (b"5:a\0b\0c,", "expected pairs of name and value, got an odd number of words"),
    (b"6:a\0b\0c\0,", "expected pairs of name and value, got an odd number of words"),
    (b"4:a\0b\0,", "expected CONTENT_LENGTH first, got 'a'"),
    (netstring(*reversed(REQUIRED)), "expected CONTENT_LENGTH first, got 'QUERY_STRING'"),
    (netstring((b"N" * 99, b"")), f"expected CONTENT_LENGTH first, got {'N' * 32!r}"),
    (changed(SCGI=None), "expected SCGI 1+fd_pass, got ''"),
    (changed(SCGI=b"1"), "expected SCGI 1+fd_pass, got '1'"),
    (changed(REMOTE_PORT=b""), "expected a number as REMOTE_PORT, got ''"),
    (changed(SERVER_PORT=b"\xb2"), "expected a number as SERVER_PORT, got '\xb2'"),
    (changed(REMOTE_PORT=b"-1"), "expected a number as REMOTE_PORT, got '-1'"),
    (changed(REMOTE_PORT=b"9" * 5000), f"expected a number as REMOTE_PORT, got {'9' * 32!r}"),
    (changed(SERVER_PORT=b"123456"), "expected a number as SERVER_PORT, got '123456'"),
    (changed(KTLSGATE=b"2"), "expected KTLSGATE 1, got '2'"),
    (changed(KTLSGATE_MODE=b"both "), "expected a known KTLSGATE_MODE, got 'both '"),
    *(
        (changed(**{name.decode(): None}), f"expected {name.decode()}, got a head without it")
        for name, _ in REQUIRED[2:]
    ),
]


@pytest.mark.parametrize(("data", "message"), MALFORMED, ids=[row[1][:60] for row in MALFORMED])
def test_what_no_gate_sends_is_refused(data, message):
    with pytest.raises(HandoffMalformed) as info:
        read(data)
    assert str(info.value) == message


@given(st.binary(min_size=1, max_size=60) | st.binary(max_size=60).map(lambda b: netstring((b, b))))
def test_garbage_is_refused_or_waited_for(data):
    with contextlib.suppress(HandoffMalformed):
        assert read(data) is None


def test_largest_head_passes():
    used = len(b"".join(b"%b\0%b\0" % pair for pair in [*REQUIRED, (b"HTTP_X", b"")]))
    filler = b"x" * (MAX_HEAD - used)
    encoded = netstring(*REQUIRED, (b"HTTP_X", filler))
    assert encoded.startswith(b"1048576:")
    assert read(encoded).environ["HTTP_X"] == filler.decode()


# The secrets (invariant I5)

SUITE = SUITES["TLS_AES_256_GCM_SHA384"]
TX, RX = bytes(range(48)), bytes(range(100, 148))
SECRETS = TrafficSecrets(
    tx=TrafficSecret(secret=TX, suite=SUITE), rx=TrafficSecret(secret=RX, suite=SUITE)
)


def test_secrets_are_two_names_of_our_dialect_behind_its_others():
    encoded = encode(handoff(secrets=SECRETS), Dialect.KTLSGATE)
    names = [name for name, _ in pairs_of(encoded)]
    at = names.index(b"KTLSGATE_KEEPALIVE")
    assert names[at + 1 : at + 3] == [b"KTLSGATE_TX_SECRET", b"KTLSGATE_RX_SECRET"]
    pairs = dict(pairs_of(encoded))
    assert pairs[b"KTLSGATE_TX_SECRET"] == TX.hex().encode()
    assert pairs[b"KTLSGATE_RX_SECRET"] == RX.hex().encode()


def test_without_secrets_the_head_has_no_such_names():
    assert not [name for name in ours() if b"SECRET" in name]


def test_nginxs_dialect_never_carries_secrets():
    assert encode(handoff(secrets=SECRETS), Dialect.NGINX) == encode(handoff(), Dialect.NGINX)


def test_secrets_are_read_back_apart_from_the_names_and_values():
    head = read(encode(handoff(secrets=SECRETS), Dialect.KTLSGATE))
    assert head.secrets == SECRETS
    assert head.environ == read(encode(handoff(), Dialect.KTLSGATE)).environ
    assert read(encode(handoff(), Dialect.KTLSGATE)).secrets is None


def test_i5_no_text_shows_a_secret_and_the_reader_keeps_none():
    encoded = encode(handoff(secrets=SECRETS), Dialect.KTLSGATE)
    reader = HandoffReader()
    position, head = 0, None
    while head is None:
        piece = encoded[position : position + reader.wanted]
        position += len(piece)
        head = reader.receive_data(piece)
    texts = repr((head, head.secrets, SECRETS, handoff(secrets=SECRETS), reader._buffer))
    for secret in (TX, RX):
        assert secret.hex() not in texts
        assert repr(secret)[2:-1] not in texts


def head_with(**changes):
    pairs = dict(pairs_of(encode(handoff(secrets=SECRETS), Dialect.KTLSGATE)))
    pairs |= {name.encode(): value for name, value in changes.items()}
    return netstring(*[(name, value) for name, value in pairs.items() if value is not None])


NOT_SHOWN = (
    "expected 48 bytes in hexadecimal as KTLSGATE_RX_SECRET, got another text, which is not shown"
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"KTLSGATE_TX_SECRET": None},
            "expected 48 bytes in hexadecimal as KTLSGATE_TX_SECRET, got a head without it",
        ),
        ({"KTLSGATE_RX_SECRET": b"5a" * 32}, NOT_SHOWN),
        ({"KTLSGATE_RX_SECRET": b"5A" * 48}, NOT_SHOWN),
        ({"KTLSGATE_RX_SECRET": b""}, NOT_SHOWN),
        ({"KTLSGATE_RX_SECRET": b"5a" * 48 + b"\n"}, NOT_SHOWN),
        (
            {"KTLSGATE_MODE": b"tx"},
            (
                "expected secrets with TLS 1.3 in mode both, got some in mode tx"
                " with 'TLS_AES_256_GCM_SHA384'"
            ),
        ),
        (
            {"SSL_CIPHER": b"ECDHE-RSA-AES128-GCM-SHA256"},
            (
                "expected secrets with TLS 1.3 in mode both, got some in mode both"
                " with 'ECDHE-RSA-AES128-GCM-SHA256'"
            ),
        ),
        (
            {"SSL_CIPHER": None},
            (
                "expected secrets with TLS 1.3 in mode both, got some in mode both"
                " with 'no SSL_CIPHER'"
            ),
        ),
    ],
)
def test_i5_secrets_that_no_gate_sends_are_refused_and_not_shown(changes, message):
    with pytest.raises(HandoffMalformed) as caught:
        read(head_with(**changes))
    assert str(caught.value) == message
    assert "5a5a" not in str(caught.value)
