"""First bytes and ClientHellos: real ones are understood, no garbage raises."""

from __future__ import annotations

import itertools

import pytest
from helpers.memory_tls import Client, client_context
from helpers.properties import given, st
from OpenSSL import SSL

from ktlsgate.wire.client_hello import FirstBytes, HelloReader, classify_first_bytes

# `openssl s_client -maxfraglen 512 -servername Shop.Example -alpn http/1.1 -groups P-256`,
# OpenSSL 3.0.19, what the server received.
MAXFRAGLEN_TLS13 = bytes.fromhex(
    "1603010114010001100303fe1ed9e123b7f271075f831a9cb248d64b2b61ccf28ba2f6a12d05ac39fa788020de23fa"
    "b384d0481b50bd14b677dd98eb2a2b3535fad8a49488bfea785c1e2986000813021303130100ff010000bf00000011"
    "000f00000c53686f702e4578616d706c650001000101000b000403000102000a000400020017002300000010000b00"
    "0908687474702f312e310016000000170000000d001e001c040305030603080708080809080a080b08040805080604"
    "0105010601002b0003020304002d00020101003300470045001700410450c132908095010e074388e40fae350fba98"
    "09031527baa194f97b9e311e4c0034d1b3aa55c4a554ce1af0f17fe4b94f0bdf09d2addd73bc9062264dfd03cfd1"
)
MAXFRAGLEN_TLS12 = bytes.fromhex(
    "16030100d8010000d4030365b170914dabd03b294ecb45c711c78e700e77f588ec386072091459c08aad58000038c0"
    "2cc030009fcca9cca8ccaac02bc02f009ec024c028006bc023c0270067c00ac0140039c009c0130033009d009c003d"
    "003c0035002f00ff0100007300000011000f00000c53686f702e4578616d706c650001000101000b00040300010200"
    "0a000400020017002300000010000b000908687474702f312e310016000000170000000d002a002804030503060308"
    "0708080809080a080b080408050806040105010601030303010302040205020602"
)


def record(body, content_type=22):
    return bytes((content_type, 3, 1)) + len(body).to_bytes(2, "big") + body


def hello(*extensions, session_id=b"", suites=b"\x13\x01", compressions=b"\0", kind=1):
    """A ClientHello message of extensions (number, data)."""
    blocks = b"".join(
        number.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
        for number, data in extensions
    )
    body = (
        b"\x03\x03" + bytes(range(32)) + bytes((len(session_id),)) + session_id
        + len(suites).to_bytes(2, "big") + suites
        + bytes((len(compressions),)) + compressions
        + len(blocks).to_bytes(2, "big") + blocks
    )  # fmt: skip
    return bytes((kind,)) + len(body).to_bytes(3, "big") + body


def server_name(name, kind=0):
    entry = bytes((kind,)) + len(name).to_bytes(2, "big") + name
    return 0, len(entry).to_bytes(2, "big") + entry


def read(*records):
    reader = HelloReader()
    for one in records:
        assert not reader.is_complete
        reader.receive_record(one)
    return reader


def real_hello(version, name="Shop.Example"):
    client = Client(client_context(version, alpn=(b"http/1.1",)), name=name)
    client.step()
    return bytes(client.sent)


# The first bytes

H = FirstBytes
FIRST_BYTES = [
    # a record header, byte by byte
    (b"\x16", None),
    (b"\x16\x03", None),
    (b"\x16\x03\x01", None),
    (b"\x16\x03\x01\x01", None),
    (b"\x16\x03\x01\x01\x14", H.HANDSHAKE),
    (b"\x16\x03\x00\x00\x01", H.HANDSHAKE),
    (b"\x16\x03\x03\x48\x00", H.HANDSHAKE),
    (b"\x16\x03\x03\x48\x01", H.NOT_TLS),
    (b"\x16\x03\x01\x00\x00", H.NOT_TLS),
    (b"\x16\x02", H.NOT_TLS),
    (b"\x16\x04\x00\x00\x10", H.NOT_TLS),
    # other records, SSLv2 hellos, nothing at all
    (b"\x15", H.NOT_TLS),
    (b"\x17\x03\x03\x00\x10", H.NOT_TLS),
    (b"\x80\x2e\x01\x03\x01", H.NOT_TLS),
    (b"\x80", H.NOT_TLS),
    (b"\x00", H.NOT_TLS),
    (b"SSH-2", H.NOT_TLS),
    # methods, as far as they go
    (b"G", None),
    (b"GE", None),
    (b"GET", None),
    (b"GET ", H.PLAIN_HTTP),
    (b"GET /", H.PLAIN_HTTP),
    (b"P", None),
    (b"PO", None),
    (b"POS", None),
    (b"POST", H.PLAIN_HTTP),
    (b"POST ", H.PLAIN_HTTP),
    (b"PRI ", H.PLAIN_HTTP),
    (b"PRI *", H.PLAIN_HTTP),
    (b"PUT /", H.PLAIN_HTTP),
    (b"PATCH", H.PLAIN_HTTP),
    (b"HEAD ", H.PLAIN_HTTP),
    (b"DELE", H.PLAIN_HTTP),
    (b"DELET", H.PLAIN_HTTP),
    (b"CONNE", H.PLAIN_HTTP),
    (b"OPTIO", H.PLAIN_HTTP),
    (b"TRACE", H.PLAIN_HTTP),
    (b"get ", H.NOT_TLS),
    (b"GETX", H.NOT_TLS),
    (b"GEX", H.NOT_TLS),
    (b"POSTS", H.NOT_TLS),
    (b"X", H.NOT_TLS),
    (b"\r\n", H.NOT_TLS),
]


@pytest.mark.parametrize(("data", "kind"), FIRST_BYTES)
def test_first_bytes_are_told_apart_as_soon_as_possible(data, kind):
    assert classify_first_bytes(data) is kind


@given(st.binary(min_size=5, max_size=5))
def test_five_bytes_are_always_enough_and_more_never_change_the_answer(data):
    answers = [classify_first_bytes(data[:size]) for size in range(1, 6)]
    assert answers[-1] is not None
    certain = list(itertools.dropwhile(lambda answer: answer is None, answers))
    if FirstBytes.HANDSHAKE not in certain and certain[0] is not FirstBytes.PLAIN_HTTP:
        assert set(certain) == {FirstBytes.NOT_TLS}


# What a hello says


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3", None])
def test_name_of_a_real_hello_is_read_in_lower_case(version):
    reader = read(real_hello(version))
    assert reader.is_complete
    assert reader.server_name == "shop.example"
    assert not reader.has_max_fragment_length


def test_real_hello_without_name_has_none():
    reader = read(real_hello("TLSv1.3", name=None))
    assert reader.is_complete
    assert reader.server_name == ""


@pytest.mark.parametrize("captured", [MAXFRAGLEN_TLS13, MAXFRAGLEN_TLS12])
def test_max_fragment_length_of_openssls_client_is_seen(captured):
    reader = read(captured)
    assert reader.is_complete
    assert reader.has_max_fragment_length
    assert reader.server_name == "shop.example"


@pytest.mark.parametrize("data", [b"\x01", b"\x04", b"", b"\xff"])
def test_max_fragment_length_counts_whatever_it_says(data):
    assert read(record(hello((1, data)))).has_max_fragment_length


def test_other_extensions_are_not_mistaken_for_it():
    """A byte sequence that looks like extension 1, inside of another extension."""
    reader = read(record(hello((16, b"\x00\x01\x00\x01\x01"), (0x0100, b"\x01"))))
    assert not reader.has_max_fragment_length


def test_session_id_suites_and_compressions_are_stepped_over():
    message = hello(
        server_name(b"a"), (1, b"\x01"),
        session_id=b"i" * 32, suites=b"s" * 300, compressions=b"c" * 255,
    )  # fmt: skip
    reader = read(record(message))
    assert (reader.server_name, reader.has_max_fragment_length) == ("a", True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.example", "a.example"),
        (b"XN--BCHER-KVA.Example", "xn--bcher-kva.example"),
        (b"under_score.example", "under_score.example"),
        (b"192.0.2.1", "192.0.2.1"),
        (b"a" * 255, "a" * 255),
        (b"a" * 256, ""),
        (b"", ""),
        (b"a b", ""),
        (b"a\nb", ""),
        (b"a\0b", ""),
        (b"a\n", ""),
        (b"\xc3\xa4.example", ""),
        (b"a:443", ""),
        (b"[::1]", ""),
    ],
)
def test_name_is_what_dns_names_are_made_of_or_nothing(name, expected):
    assert read(record(hello(server_name(name)))).server_name == expected


def test_name_of_another_type_is_none():
    assert read(record(hello(server_name(b"a", kind=1)))).server_name == ""


# Where it ends


def test_hello_over_several_records_is_put_together():
    message = hello(server_name(b"a.example"), (1, b"\x01"))
    reader = read(*(record(message[i : i + 1]) for i in range(len(message))))
    assert reader.is_complete
    assert (reader.server_name, reader.has_max_fragment_length) == ("a.example", True)


@pytest.mark.parametrize("size", [1, 3, 4, 38])
def test_hello_is_waited_for(size):
    reader = read(record(hello(server_name(b"a"))[:size]))
    assert not reader.is_complete


def test_record_of_another_type_ends_the_watch():
    reader = read(record(hello(server_name(b"a"))[:20]), record(b"\x02\x28", 21))
    assert reader.is_complete
    assert reader.server_name == ""


@pytest.mark.parametrize("captured", [MAXFRAGLEN_TLS13, MAXFRAGLEN_TLS12])
def test_hello_cut_at_any_byte_never_raises(captured):
    """The message says that it is whole at every length."""
    body = captured[9:]
    for size in range(len(body)):
        reader = read(record(b"\x01" + size.to_bytes(3, "big") + body[:size]))
        assert reader.is_complete
        assert reader.server_name in ("", "shop.example"[: len(reader.server_name)])


@given(
    start=st.integers(0, len(MAXFRAGLEN_TLS13)),
    size=st.integers(0, 40),
    junk=st.binary(max_size=40),
    cuts=st.lists(st.integers(1, 120), max_size=4),
    examples=300,
)
def test_spliced_hello_never_raises(start, size, junk, cuts):
    body = MAXFRAGLEN_TLS13[5:start] + junk + MAXFRAGLEN_TLS13[start + size :]
    reader = HelloReader()
    for cut in [*cuts, len(body)]:
        piece, body = body[:cut], body[cut:]
        if piece and not reader.is_complete:
            reader.receive_record(record(piece))
    assert reader.server_name.isascii()
    assert reader.server_name == reader.server_name.lower()


@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=4), examples=300)
def test_garbage_never_raises(bodies):
    reader = HelloReader()
    for body in bodies:
        if not reader.is_complete:
            reader.receive_record(record(body))


def test_reader_agrees_with_openssl_about_the_name():
    seen = []
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_tlsext_servername_callback(
        lambda connection: seen.append(connection.get_servername())
    )
    for captured in (real_hello("TLSv1.2"), real_hello("TLSv1.3"), MAXFRAGLEN_TLS13):
        server = SSL.Connection(context, None)
        server.set_accept_state()
        server.bio_write(captured)
        with pytest.raises(SSL.Error):  # it has no certificate
            server.do_handshake()
        assert seen.pop().decode().lower() == read(captured).server_name
