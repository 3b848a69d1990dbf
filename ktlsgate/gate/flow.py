"""The bytes of one relay on their way: both directions, without a task or a coroutine.

A `Flow` is called when its sockets have news (`ktlsgate.gate.handlers`) and moves one
chunk each time. It knows bytes, room and ends. What an end means, and what is said about
it to whom, is the business of the fiber that made it and is woken when it `has_news`;
there are a few of those in the life of a relay.

Back-pressure: a direction is read when all that was read before has been taken.

Records leave in the order in which they were made: whatever OpenSSL makes, for data or
of its own, is appended to what is unsent at once. While records of its own wait there
nothing is read, so that no client can make us keep more and more of them.
"""

from __future__ import annotations

import errno
import select
import socket

from ..errors import LocalProtocolError, RemoteProtocolError
from ..wire.record_layer import RecordLayer
from .client import ClientGone, send_kernel_close_notify
from .fibers import now, this_fiber

__all__ = ["Flow"]

_CHUNK = 65_536
_BULK = 16_384  # more at once is part of a stream
_RECV = int(socket.MSG_DONTWAIT)
_SEND = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

_READ = select.EPOLLIN | select.EPOLLRDHUP
_BOTH = _READ | select.EPOLLOUT
_GONE = select.EPOLLHUP | select.EPOLLERR
_LAST = _GONE | select.EPOLLRDHUP  # an end stands behind what can be read


class Flow:
    """One relay's bytes.

    Attributes:
        bytes_in: from the client to the backend.
        bytes_out: from the backend to the client.
        moved: when a byte moved last, by Trio's clock.
        unsent: what the client has not taken yet, as it goes out.
        has_input_ended: whether nothing more will go to the backend.
        input_fault: how the client's stream ended, unless by close_notify.
        is_refused: whether input ended since the backend reads no more.
        has_output_ended: whether the backend has ended its output.
        output_fault: the error that ended it, if one did.
        client_fault: what sending to the client ended with; nothing moves any more.
        is_hung_up: whether the backend's end of its socket is closed.
        reads_output: whether what comes from the backend is for the client.
    """

    __slots__ = (
        "_backend", "_client", "_crash", "_encrypts", "_fiber", "_fibers", "_has_input_turn",
        "_has_news", "_has_output_turn", "_has_said_end", "_held", "_is_backend_ending",
        "_is_client_ending", "_is_stopped", "_is_swollen", "_owes", "_owes_end", "_records",
        "_size_in", "_size_out", "_wakes", "bytes_in", "bytes_out", "client_fault",
        "has_input_ended", "has_output_ended", "input_fault", "is_hung_up", "is_refused", "moved",
        "output_fault", "reads_output", "unsent",
    )  # fmt: skip

    def __init__(
        self,
        client: socket.socket,
        records: RecordLayer,
        backend: socket.socket,
        *,
        encrypts: bool,
        reads_output: bool,
    ) -> None:
        """Begin with the calling fiber as who is told; nothing moves before `start`.

        Args:
            client: carries records.
            records: OpenSSL's, for them.
            backend: takes what the client sends, decrypted.
            encrypts: whether OpenSSL encrypts, and not the kernel.
            reads_output: see the attribute.
        """
        self._client, self._records, self._backend = client, records, backend
        self._encrypts = encrypts
        self._fiber = this_fiber()
        self._fibers = self._fiber.fibers
        self._has_news = self._wakes = self._is_stopped = False
        self._has_input_turn = self._has_output_turn = self._is_swollen = False
        self._is_client_ending = self._is_backend_ending = self._owes = False
        self._has_said_end = self._owes_end = False
        self._held, self._size_in, self._size_out = b"", 0, 0
        self._crash: Exception | None = None
        self.bytes_in = self.bytes_out = 0
        self.moved = now()
        self.unsent = b""
        self.has_input_ended = self.is_refused = self.has_output_ended = self.is_hung_up = False
        self.reads_output = reads_output
        self.input_fault: ClientGone | None = None
        self.output_fault: OSError | None = None
        self.client_fault: OSError | None = None

    # --- for the fiber ---

    def start(self, trailing: bytes) -> None:
        """Watch both sockets, and move what there is.

        Args:
            trailing: goes to the backend first; may be empty.

        Raises:
            ResourceShortage: one of them cannot be watched; `stop` is still to be called.
        """
        self._records.shrink()  # the handshake's flights were larger than most that follows
        handlers = self._fibers.handlers
        handlers.add(self._client.fileno(), _BOTH, self._on_client)
        handlers.add(self._backend.fileno(), _READ, self._on_backend)
        if trailing:
            self._size_in = len(trailing)
            self._pass_on(trailing)
        else:
            self._look_for_end()

    def be_looked_at(self) -> None:
        """Wake nobody until `has_news` says that there is nothing new: somebody looks."""
        self._wakes = False

    def has_news(self) -> bool:
        """Whether an end came into sight since the last call; if not, the next one wakes.

        Raises:
            Exception: a bug of ours, from inside a handler.
        """
        if self._crash:
            raise self._crash
        has_news, self._has_news = self._has_news, False
        self._wakes = not has_news
        return has_news

    def poke(self) -> None:
        """Have news."""
        self._has_news = True
        if self._wakes:
            self._wakes = False  # once: who is woken twice may have ended in between
            self._fibers.wake_soon(self._fiber)

    def read_output(self) -> None:
        """From now on what comes from the backend is for the client."""
        self.reads_output = True
        self._take_output()

    def send_close_notify(self) -> None:
        """End the client's stream; there is news when the client has taken that. Once is enough."""
        if self._has_said_end:
            return
        self._has_said_end = True
        if self._encrypts:
            self.unsent += self._records.send_close_notify()
            if self.unsent:
                self._flush()
        else:
            self._owes_end = True
            self._send_end()

    @property
    def has_unsent(self) -> bool:
        """Whether the client has yet to take something, be it the end."""
        return bool(self.unsent) or self._owes_end

    def stop(self) -> None:
        """Let nothing move any more; the sockets stay open."""
        self._is_stopped, self._wakes = True, False
        self._held = self.unsent = b""
        for sock in (self._client, self._backend):
            self._fibers.handlers.remove(sock.fileno())

    # --- from the client to the backend ---

    def _on_client(self, events: int) -> None:
        try:
            if events & _LAST:
                self._is_client_ending = True
            if self.unsent:
                self._flush()
            elif self._owes_end:
                self._send_end()
            if not self._has_input_turn:
                self._take_input()
        except Exception as exc:  # noqa: BLE001 - raised again in the fiber
            self._fail(exc)

    def _go_on_with_input(self) -> None:
        """Move the next chunk when others had their turn."""
        if not self._has_input_turn:
            self._has_input_turn = True
            self._fibers.handlers.call_again(self._take_input_turn)

    def _take_input_turn(self) -> None:
        self._has_input_turn = False
        self._on_client(0)

    def _fail(self, error: Exception) -> None:
        self._crash, self._is_stopped = error, True
        self.poke()

    def _take_input(self) -> None:
        """Move one chunk."""
        if self._is_input_waiting():
            return
        try:
            data = self._client.recv(_CHUNK, _RECV)
        except BlockingIOError:
            return
        except OSError as exc:
            self._end_input(ClientGone("reset", f"the client is gone: {exc.strerror}"))
            return
        if not data:
            self._end_input(ClientGone("cut", "expected close_notify, got end of file"))
            return
        self._decrypt(data)
        self._weigh(data)
        if len(data) == _CHUNK or self._is_client_ending:
            self._go_on_with_input()

    def _weigh(self, data: bytes) -> None:
        """Let others go on behind bulk, and part from its buffers when it is over."""
        if len(data) > _BULK:
            self._fibers.handlers.load += len(data)
            self._is_swollen = True
        elif self._is_swollen:
            self._is_swollen = False
            self._records.shrink()

    def _is_input_waiting(self) -> bool:
        return bool(self._held) or self._owes or self.has_input_ended or self._is_stopped

    def _decrypt(self, data: bytes) -> None:
        try:
            plain = self._records.receive_data(data)
        except RemoteProtocolError as exc:
            self._end_input(ClientGone("bad_record", str(exc)))
            return
        self._send_own_records()
        if plain:
            self._size_in = len(plain)
            self._pass_on(plain)
        else:
            self._look_for_end()

    def _pass_on(self, data: bytes) -> None:
        """Let the backend take what it will, and keep the rest."""
        try:
            sent = self._backend.send(data, _SEND)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._held = b""
            self.is_refused = self.has_input_ended = True
            self.poke()
            return
        if sent:
            self.moved = self._fibers.now()
        if sent < len(data):
            if not self._held:
                self._fibers.handlers.change(self._backend.fileno(), _BOTH)
            self._held = data[sent:]
            return
        self._held = b""
        self.bytes_in += self._size_in
        self._look_for_end()

    def _look_for_end(self) -> None:
        """Behind the last data there may be an end that was decrypted together with it."""
        if self._records.is_closed:
            self._end_input(None)
        elif self._records.failure:
            self._end_input(ClientGone("bad_record", str(self._records.failure)))

    def _end_input(self, fault: ClientGone | None) -> None:
        self.has_input_ended, self.input_fault = True, fault
        if fault and fault.reason == "bad_record":
            self._send_own_records()
            if self._encrypts:
                self.reads_output = False  # OpenSSL would not encrypt it
        self.poke()

    # --- from the backend to the client ---

    def _on_backend(self, events: int) -> None:
        try:
            if events & _LAST:
                self._is_backend_ending = True
            if events & _GONE:
                self.is_hung_up = True
                self.poke()
            if self._held:
                self._pass_on(self._held)
                if not self._held:
                    self._go_on_with_input()
            elif events & select.EPOLLOUT:  # from when there was no room: no news any more
                self._fibers.handlers.change(self._backend.fileno(), _READ)
            if self._has_output_turn:
                return
            if self.reads_output:
                self._take_output()
            else:
                self.poke()
        except Exception as exc:  # noqa: BLE001 - raised again in the fiber
            self._fail(exc)

    def _go_on_with_output(self) -> None:
        """Move the next chunk when others had their turn."""
        if not self._has_output_turn:
            self._has_output_turn = True
            self._fibers.handlers.call_again(self._take_output_turn)

    def _take_output_turn(self) -> None:
        self._has_output_turn = False
        self._on_backend(0)

    def _take_output(self) -> None:
        """Move one chunk."""
        if self._is_output_waiting():
            return
        try:
            data = self._backend.recv(_CHUNK, _RECV)
        except BlockingIOError:
            return
        except OSError as exc:
            self.output_fault, data = exc, b""
        if not data:
            self.has_output_ended = True
            self.poke()
            return
        self._size_out = len(data)
        self._encrypt(data)
        self._weigh(data)
        if not self.unsent and (len(data) == _CHUNK or self._is_backend_ending):
            self._go_on_with_output()

    def _is_output_waiting(self) -> bool:
        return bool(self.unsent) or self.has_output_ended or self._is_stopped

    def _encrypt(self, data: bytes) -> None:
        if self._encrypts:
            try:
                data = self._records.send_data(data)
            except (RemoteProtocolError, LocalProtocolError):
                self._lose_client(OSError(errno.EPIPE, "OpenSSL gave the connection up"))
                return
        self.unsent = data
        self._send()

    def _send_own_records(self) -> None:
        """Send what OpenSSL has to say itself, or drop it where the kernel sends (I4)."""
        output = self._records.data_to_send()
        if output and self._encrypts:
            self.unsent += output
            self._owes = True
            self._flush()

    def _flush(self) -> None:
        """Send what has waited; behind the last of it goes on what had to wait for it."""
        self._send()
        if self.unsent or self._is_stopped:
            return
        self._go_on_with_output()
        if self._owes:
            self._owes = False
            self._go_on_with_input()

    def _send(self) -> None:
        """Let the client take of what is unsent what it will."""
        try:
            sent = self._client.send(self.unsent, _SEND)
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose_client(exc)
            return
        self.moved = self._fibers.now()
        self.unsent = self.unsent[sent:]
        if self.unsent:
            return
        self.bytes_out += self._size_out
        self._size_out = 0
        if self.has_output_ended or self.input_fault:
            self.poke()

    def _send_end(self) -> None:
        """Let the kernel say close_notify, behind all that it has been given."""
        self._owes_end = not send_kernel_close_notify(self._client)
        if not self._owes_end:
            self.poke()

    def _lose_client(self, error: OSError) -> None:
        self.unsent = b""
        if not self.has_output_ended:  # its last words are lost without harm
            self.client_fault, self._is_stopped = error, True
        self.poke()
