"""The table that strace writes, and what it comes to for each connection."""

import pytest
from bench.syscalls import Calls, parse_calls

TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 28.74    0.013283           4      2700       900 recvfrom
 12.10    0.005593           2      1800           setsockopt
  0.10    0.000010           0        30           clock_gettime
  0.01    0.000005           0         7         7 getpid
  0.00    0.000000           0        10           accept4
------ ----------- ----------- --------- --------- ----------------
100.00    0.046212           3      4547       907 total
"""


def test_calls_are_read_with_those_that_failed():
    assert parse_calls(TABLE) == {"recvfrom": 2700, "setsockopt": 1800, "accept4": 10}


def test_an_empty_table_has_none():
    assert parse_calls("") == {}


def test_calls_for_each_connection_come_the_most_frequent_first():
    calls = Calls(server="gate", connections=10, calls={"accept4": 10, "recvfrom": 90})
    assert list(calls.each.items()) == [("recvfrom", 9.0), ("accept4", 1.0)]
    assert calls.total == pytest.approx(10.0)
