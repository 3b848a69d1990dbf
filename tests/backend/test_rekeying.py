"""Generations, what we owe, and the bounds, with a kernel that writes down what it is told."""

import errno
import math

import pytest

from ktlsgate.backend.rekeying import Rekeying, default_record_limit
from ktlsgate.errors import CipherUnsupported, RemoteProtocolError
from ktlsgate.wire.ciphers import SUITES, KernelCipher
from ktlsgate.wire.crypto_info import RxCryptoInfo, TxCryptoInfo
from ktlsgate.wire.key_schedule import TrafficSecret, TrafficSecrets
from ktlsgate.wire.messages import KEY_UPDATE, KEY_UPDATE_REQUESTED

SUITE = SUITES["TLS_AES_128_GCM_SHA256"]
TX = [TrafficSecret(secret=b"t" * 32, suite=SUITE)]
RX = [TrafficSecret(secret=b"r" * 32, suite=SUITE)]
for generations in (TX, RX):
    for _ in range(3):
        generations.append(generations[-1].next_generation())
EBUSY = CipherUnsupported(errno.EBUSY, "cannot install the key: no (EBUSY)")


class FakeKernel:
    """Takes calls down; raises what it was given for the next call of a name."""

    def __init__(self):
        self.calls = []
        self.errors = {}
        self.tx_number = self.rx_number = 0

    def _note(self, name, value):
        if error := self.errors.pop(name, None):
            raise error
        self.calls.append((name, value))

    def send_key_update(self, message):
        self._note("send", message)

    def install_tx(self, info):
        assert isinstance(info, TxCryptoInfo)
        self._note("tx", (info.key, info.rec_seq))

    def install_rx(self, info):
        assert isinstance(info, RxCryptoInfo)
        self._note("rx", (info.key, info.rec_seq))

    def tx_rec_seq(self, shape):
        assert shape is SUITE.shape
        self._note("tx number", self.tx_number)
        return self.tx_number

    def rx_rec_seq(self, shape):
        assert shape is SUITE.shape
        self._note("rx number", self.rx_number)
        return self.rx_number

    def take(self):
        calls, self.calls = self.calls, []
        return calls


@pytest.fixture
def kernel():
    return FakeKernel()


def rekeying(kernel, **options):
    return Rekeying(TrafficSecrets(tx=TX[0], rx=RX[0]), kernel, **options)


def sending(generation, message=KEY_UPDATE):
    return [("send", message), ("tx", (TX[generation].derive_key(), 0))]


def receiving(generation, number=0):
    return [("rx", (RX[generation].derive_key(), number))]


def test_a_key_update_installs_the_next_receiving_key_and_owes_nothing(kernel):
    core = rekeying(kernel)
    for generation in (1, 2):
        core.follow(is_requested=False, now=0)
        core.update_sending()
        assert kernel.take() == receiving(generation)
        assert core.generations == (0, generation)


def test_one_that_asks_is_answered_once_before_data(kernel):
    core = rekeying(kernel)
    core.follow(is_requested=True, now=0)
    assert core.is_owing
    assert kernel.take() == receiving(1)
    core.update_sending()
    core.update_sending()
    assert kernel.take() == sending(1)
    assert core.generations == (1, 1)
    assert not core.is_owing


def test_several_that_ask_before_we_send_are_answered_by_one(kernel):
    """RFC 8446 4.6.3 allows it."""
    core = rekeying(kernel)
    core.follow(is_requested=True, now=0)
    core.follow(is_requested=True, now=0)
    core.follow(is_requested=False, now=0)
    core.update_sending()
    assert kernel.take() == receiving(1) + receiving(2) + receiving(3) + sending(1)


def test_with_a_full_buffer_it_stays_owed_and_no_key_changes(kernel):
    core = rekeying(kernel)
    core.follow(is_requested=True, now=0)
    kernel.take()
    for _ in range(2):
        kernel.errors["send"] = BlockingIOError(errno.EAGAIN, "full")
        with pytest.raises(BlockingIOError):
            core.update_sending()
        assert (core.is_owing, kernel.take(), core.generations) == (True, [], (0, 1))
    core.update_sending()
    assert kernel.take() == sending(1)


def test_a_sending_key_that_is_refused_ends_all_sending(kernel):
    core = rekeying(kernel)
    core.follow(is_requested=True, now=0)
    kernel.errors["tx"] = EBUSY
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            core.update_sending()
        assert str(caught.value) == "our KeyUpdate was sent, but cannot install the key: no (EBUSY)"
        assert core.has_failed
    assert [name for name, _ in kernel.take()] == ["rx", "send"]


def test_a_receiving_key_that_is_refused_is_an_error(kernel):
    core = rekeying(kernel)
    kernel.errors["rx"] = EBUSY
    with pytest.raises(RemoteProtocolError) as caught:
        core.follow(is_requested=True, now=0)
    assert str(caught.value) == (
        "the client sent a KeyUpdate, but cannot install the key: no (EBUSY)"
    )
    assert (core.generations, core.is_owing, core.has_failed) == ((0, 0), False, False)


def test_reopening_gives_the_same_key_with_its_number(kernel):
    core = rekeying(kernel)
    core.follow(is_requested=False, now=0)
    kernel.take()
    kernel.rx_number = 7
    core.reopen_receiving()
    assert kernel.take() == [("rx number", 7), *receiving(1, 7)]


def test_a_hundred_in_a_second_are_borne_and_one_more_is_a_flood(kernel):
    core = rekeying(kernel)
    for _ in range(100):
        core.follow(is_requested=False, now=5.0)
    for _ in range(100):
        core.follow(is_requested=False, now=6.0)
    with pytest.raises(RemoteProtocolError) as caught:
        core.follow(is_requested=False, now=6.99)
    assert str(caught.value) == "expected at most 100 KeyUpdates in a second, got more"
    assert core.generations == (0, 200)


def test_many_records_sent_make_us_update(kernel):
    core = rekeying(kernel, record_limit=1000)
    core.note_sent(249)
    assert kernel.take() == []
    kernel.tx_number = 999
    core.note_sent(1)
    assert (kernel.take(), core.is_owing) == ([("tx number", 999)], False)
    kernel.tx_number = 1000
    core.note_sent(1_000_000)
    assert (kernel.take(), core.is_owing) == ([("tx number", 1000)], True)
    core.update_sending()
    assert kernel.take() == sending(1)


def test_many_records_received_make_us_ask_once(kernel):
    core = rekeying(kernel, record_limit=1000)
    core.note_received(249)
    assert kernel.take() == []
    kernel.rx_number = 1000
    core.note_received(1)
    assert core.is_owing
    core.update_sending()
    core.note_received(1_000_000)
    assert kernel.take() == [("rx number", 1000), *sending(1, KEY_UPDATE_REQUESTED)]
    core.follow(is_requested=False, now=0)
    core.note_received(1_000_000)
    core.update_sending()
    assert kernel.take() == [*receiving(1), ("rx number", 1000), *sending(2, KEY_UPDATE_REQUESTED)]


def test_what_the_client_does_by_itself_is_not_asked_for(kernel):
    core = rekeying(kernel, record_limit=1000)
    kernel.rx_number = 1000
    core.note_received(1_000_000)
    core.follow(is_requested=False, now=0)
    core.update_sending()
    assert kernel.take() == [("rx number", 1000), *receiving(1), *sending(1)]


def test_no_cipher_passes_its_bound_even_in_records_of_one_byte():
    """The number is looked at after a quarter of the limit in bytes. 2^24.5 and 2^23 records."""
    bounds = {
        KernelCipher.AES_GCM_128: 2**24.5,
        KernelCipher.AES_GCM_256: 2**24.5,
        KernelCipher.AES_CCM_128: 2**23,
        KernelCipher.CHACHA20_POLY1305: math.inf,
    }
    assert set(bounds) == set(KernelCipher)
    for cipher, bound in bounds.items():
        assert default_record_limit(cipher) * 1.25 <= bound


def test_chacha20_is_never_asked_for_numbers(kernel):
    suite = SUITES["TLS_CHACHA20_POLY1305_SHA256"]
    secret = TrafficSecret(secret=bytes(32), suite=suite)
    core = Rekeying(TrafficSecrets(tx=secret, rx=secret), kernel)
    core.note_sent(1 << 60)
    core.note_received(1 << 60)
    assert kernel.take() == []


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(kernel, limit):
    with pytest.raises(ValueError, match="expected a limit of 1 record or more, got"):
        rekeying(kernel, record_limit=limit)


def test_i5_no_text_shows_a_secret(kernel):
    core = rekeying(kernel)
    texts = repr((core, core._tx, core._rx, TrafficSecrets(tx=TX[0], rx=RX[0])))
    assert "tttt" not in texts
    assert "rrrr" not in texts
