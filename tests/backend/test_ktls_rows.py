"""Every row of `helpers.after_handoff` through the connection objects of both flavours."""

import socket

import pytest
from helpers.after_handoff import ALERT, CASES, CLOSE_NOTIFY, DATA, WAITS, Told
from helpers.flavours import FLAVOURS, received
from helpers.handoffs import our_head
from helpers.ktls import ktls_pair

pytestmark = pytest.mark.ktls


@pytest.fixture(params=FLAVOURS, ids=lambda flavour: flavour.__name__)
def flavour(request):
    return request.param


def take(hands, expected):
    """One `recv`, in the table's terms."""
    if expected is WAITS:
        return WAITS if hands.times_out("recv", 1 << 16) else "came"
    if not isinstance(expected, Told):
        return hands.recv(1 << 16)
    with pytest.raises(expected.kind) as caught:
        hands.recv(1 << 16)
    return Told(kind=expected.kind, text=str(caught.value))


@pytest.mark.parametrize(("row", "suite"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_connection_object_receives_what_its_row_says(flavour, row, suite):
    with ktls_pair(suite) as (sock, peer):
        names = {"HTTPS": "on", "SSL_PROTOCOL": suite.version.label}
        descriptor = socket.socket(fileno=sock.detach())
        descriptor.setblocking(False)
        hands = flavour(received(our_head("both", **names), descriptor))
        try:
            for act in row.does:
                act(peer)
            seen = [take(hands, expected) for expected in row.receives]
            assert seen == list(row.receives)
            last = row.receives[-1]
            if last == b"" or isinstance(last, Told):
                assert take(hands, last) == last, "it must stay"
            check_sending(hands, peer, row)
        finally:
            hands.abort()


def check_sending(hands, peer, row):
    if row.sends:
        with pytest.raises(row.sends.kind) as caught:
            hands.sendall(b"answer")
        assert str(caught.value) == row.sends.text
        return
    hands.sendall(b"answer")
    hands.end_output()
    seen = []
    while not seen or seen[-1] != (DATA, b"answer"):
        seen.append(peer.recv())
    assert tuple(seen[:-1]) == row.answers
    assert peer.recv() == (ALERT, CLOSE_NOTIFY)
    assert peer.recv() == (0, b"")
