"""TLS clients without a network: a pyOpenSSL client whose socket is a bytearray.

    client = Client(client_context())
    handshake = Handshake(server_context)
    shake_hands(handshake, client)

`Client.sent` is what a socket buffer between the two would hold: `shake_hands` takes
exactly as many bytes as the handshake wants, so what is left there was never read.
"""

from __future__ import annotations

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL, crypto

from ktlsgate.config import Tls
from ktlsgate.wire.ciphers import SUITES, Version
from ktlsgate.wire.handshake import Handshake
from ktlsgate.wire.keylog import parse_keylog_line
from ktlsgate.wire.openssl_extra import set_ciphersuites
from ktlsgate.wire.tls_context import build_server_context

LIB = Binding().lib
VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}
# Every suite in one server: what the library does not know, it leaves out.
ALL_SUITES = Tls(
    ciphers=":".join(n for n, s in SUITES.items() if s.version is Version.TLS12) + ":@SECLEVEL=0",
    ciphersuites=":".join(n for n, s in SUITES.items() if s.version is Version.TLS13),
)


def server_context(identity, tls=Tls(), client_cas=()):  # noqa: B008 - frozen
    """The gate's own context for an identity of `helpers.identities`."""
    return build_server_context(tls, identity.chain, identity.key, client_cas)


def client_context(
    version=None, *, ciphers=None, suites=None, alpn=(), identity=None, authority=None, options=0
):
    """A client's context; ``authority`` None trusts anybody."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version:
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
    if options:
        context.set_options(options)
    if ciphers:
        context.set_cipher_list(ciphers.encode())
    if suites:
        assert set_ciphersuites(context, suites), suites
    if alpn:
        context.set_alpn_protos(list(alpn))
    if identity:
        _use_identity(context, identity)
    if authority:
        context.get_cert_store().add_cert(crypto.X509.from_cryptography(authority.certificate))
        context.set_verify(SSL.VERIFY_PEER)
    context.set_keylog_callback(_keep_secret)
    return context


def _use_identity(context, identity):
    try:
        context.use_certificate(identity.chain[0])
        context.use_privatekey(identity.key)
    except TypeError:  # pyOpenSSL before 24.3
        context.use_certificate(crypto.X509.from_cryptography(identity.chain[0]))
        context.use_privatekey(crypto.PKey.from_cryptography_key(identity.key))


def _keep_secret(connection, line):
    label, secret = parse_keylog_line(line)
    connection.get_app_data()[label] = secret


class Client:
    """One client connection.

    Attributes:
        tls: pyOpenSSL's object.
        sent: bytes on their way to the server.
        received: plaintext that came from the server.
        secrets: key log label to secret.
        request: plaintext to send glued to the client's last handshake record.
    """

    def __init__(self, context, *, name=None, session=None, request=b"", early=b""):
        self.secrets = {}
        self.sent = bytearray()
        self.received = b""
        self.request = request
        self.is_established = False
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.tls.set_app_data(self.secrets)
        if name:
            self.tls.set_tlsext_host_name(name.encode())
        if session is not None:
            self.tls.set_session(session)
        if early:
            self._write_early_data(early)

    def _write_early_data(self, data):
        from cryptography.hazmat.bindings.openssl.binding import Binding

        written = Binding().ffi.new("size_t *")
        assert LIB.SSL_write_early_data(self.tls._ssl, data, len(data), written) == 1
        self._drain()

    def step(self, data=b""):
        """Take the server's bytes and go on as far as possible."""
        if data:
            self.tls.bio_write(data)
        try:
            if not self.is_established:
                self.tls.do_handshake()
                self.is_established = True
                if self.request:
                    self.tls.sendall(self.request)
            while True:
                self.received += self.tls.recv(65_536)
        except SSL.WantReadError:
            pass
        finally:
            self._drain()

    def send(self, data):
        """Encrypt application data; the records are in `sent` then."""
        self.tls.sendall(data)
        self._drain()

    def _drain(self):
        try:
            while True:
                self.sent += self.tls.bio_read(65_536)
        except SSL.WantReadError:
            pass

    def take(self, size):
        """What recv(size) on the server's socket would return."""
        data = bytes(self.sent[:size])
        del self.sent[:size]
        return data

    def take_all(self):
        return self.take(len(self.sent))

    def leave(self):
        """Go, and give the session to resume (in TLS 1.3 of the last ticket read).

        Marked as closed: OpenSSL spoils the sessions of connections that just vanish.
        """
        self.tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
        return self.tls.get_session()


def shake_hands(handshake: Handshake, client, *, piece=1 << 20):
    """Run until the server is established; all its output reaches the client.

    Args:
        handshake: a fresh one.
        client: anything with step, take.
        piece: the most that one read returns.

    Returns:
        The records the server sent, flight by flight.
    """
    client.step()
    flights = []
    while not handshake.is_established:
        if handshake.receive_data(client.take(min(handshake.wanted, piece))):
            flights.append(handshake.data_to_send())
            if flights[-1]:
                client.step(flights[-1])
    return flights
