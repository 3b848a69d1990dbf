"""Applications on servers that take themselves for plain ones."""

import asyncio

import pytest
from helpers.handoffs import hand_off, our_head, tcp_pair

from ktlsgate.backend.handoff_socket import HandoffSocket
from ktlsgate.backend.middleware import HandoffAsgi, HandoffWsgi


@pytest.fixture
def listener(tmp_path):
    """One that has accepted a client; in mode PLAIN, though it says that there is TLS."""
    with HandoffSocket.bound(str(tmp_path / "s")) as listener:
        client, server = tcp_pair()
        head = our_head(HTTPS="on", SSL_PROTOCOL="TLSv1.2")
        hand_off(listener.address, head, server).close()
        sock, _ = listener.accept()
        with client, sock:
            listener.accepted = sock
            yield listener


def asgi_scope(listener, **scope):
    """What an application is given for what a server gave."""
    given = []

    async def app(scope, receive, send):
        given.append((scope, receive, send))

    asyncio.run(HandoffAsgi(app, listener)(scope, "receive", "send"))
    ((scope, receive, send),) = given
    assert (receive, send) == ("receive", "send")
    return scope


def wsgi_environ(listener, **environ):
    def app(environ, start_response):
        assert start_response == "start"
        return [environ]

    (environ,) = HandoffWsgi(app, listener)(environ, "start")
    return environ


REMOTE, LOCAL = ("192.0.2.7", 40000), ("192.0.2.1", 443)


@pytest.mark.parametrize("server", [LOCAL, None])
def test_asgi_application_is_told_of_tls(listener, server):
    scope = asgi_scope(listener, type="http", scheme="http", client=REMOTE, server=server)
    assert scope["scheme"] == "https"
    assert scope["extensions"]["tls"]["tls_version"] == 0x0303


@pytest.mark.parametrize(
    "scope",
    [
        {"type": "lifespan"},
        {"type": "http", "scheme": "http", "client": None},
        {"type": "http", "scheme": "http", "client": ("192.0.2.8", 40000), "server": LOCAL},
        {"type": "http", "scheme": "http", "client": REMOTE, "server": ("192.0.2.1", 80)},
    ],
)
def test_asgi_scope_of_nobody_we_know_is_left_alone(listener, scope):
    assert asgi_scope(listener, **scope) == scope


@pytest.mark.parametrize("port", ["40000", 40000])
def test_wsgi_application_is_told_of_tls_by_the_clients_address(listener, port):
    environ = wsgi_environ(listener, REMOTE_ADDR="192.0.2.7", REMOTE_PORT=port)
    assert (environ["wsgi.url_scheme"], environ["SSL_PROTOCOL"]) == ("https", "TLSv1.2")


@pytest.mark.parametrize("name", ["gunicorn.socket", "werkzeug.socket"])
def test_wsgi_application_is_told_of_tls_by_the_socket(listener, name):
    environ = wsgi_environ(listener, **{name: listener.accepted})
    assert environ["wsgi.url_scheme"] == "https"


@pytest.mark.parametrize(
    "environ",
    [
        {"REMOTE_ADDR": "192.0.2.7"},
        {"REMOTE_ADDR": "192.0.2.7", "REMOTE_PORT": "40001"},
        {"REMOTE_ADDR": "", "REMOTE_PORT": "", "gunicorn.socket": None},
    ],
)
def test_wsgi_environment_of_nobody_we_know_is_left_alone(listener, environ):
    assert wsgi_environ(listener, **environ) == environ
