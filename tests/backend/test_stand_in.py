"""A number that is readable before there is anything to read."""

import os
import select
import socket

from helpers.descriptors import open_descriptors

from ktlsgate.backend.stand_in import StandIn


def events(number):
    poll = select.poll()
    poll.register(number, select.POLLIN | select.POLLOUT)
    return dict(poll.poll(0)).get(number, 0)


def test_number_is_readable_and_writable_at_first_then_the_targets():
    before = open_descriptors()
    near, far = socket.socketpair()
    number = os.dup(near.fileno())
    stand_in = StandIn(number, near.fileno())
    assert events(number) == select.POLLIN | select.POLLOUT
    stand_in.end()
    assert events(number) == select.POLLOUT
    far.send(b"x")
    assert os.read(number, 10) == b"x"
    stand_in.end()
    assert not os.get_inheritable(number)
    os.close(number)
    near.close()
    far.close()
    assert open_descriptors() == before


def test_number_is_not_inherited_meanwhile():
    near, far = socket.socketpair()
    with near, far:
        number = os.dup(near.fileno())
        StandIn(number, near.fileno())
        assert not os.get_inheritable(number)
        os.close(number)


def test_end_comes_once_so_that_a_number_used_again_is_left_alone():
    near, far = socket.socketpair()
    with near, far:
        number = os.dup(near.fileno())
        stand_in = StandIn(number, near.fileno())
        stand_in.end()
        read_end, write_end = os.pipe()
        os.dup2(write_end, number)
        stand_in.end()
        os.write(number, b"pipe")
        assert os.read(read_end, 10) == b"pipe"
        for each in (number, read_end, write_end):
            os.close(each)
