"""What is read of /proc, from files as the kernel writes them, and the process's own CPU clock."""

import os
import select
import subprocess
import threading
import time

import pytest
from bench.measure import (
    Memory,
    count_descriptors,
    count_epoll_entries,
    cpu_seconds,
    family,
    parse_memory,
    read_memory,
)

ROLLUP = """\
55d0c0a00000-7ffd3b5fe000 ---p 00000000 00:00 0                          [rollup]
Rss:               12680 kB
Pss:                9000 kB
Pss_Dirty:          4064 kB
Private_Clean:      1528 kB
"""

EPOLL = """\
pos:\t0
flags:\t02000002
mnt_id:\t15
ino:\t1056
tfd:        4 events:       19 data: 7f0000000004  pos:0 ino:61 sdev:5
tfd:        5 events:       19 data: 7f0000000005  pos:0 ino:62 sdev:5
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_memory_is_read_from_the_rollup():
    assert parse_memory(ROLLUP) == Memory(rss=12680, pss=9000)


def test_other_text_is_not_taken_for_memory():
    with pytest.raises(KeyError):
        parse_memory("Rss: much\n")


def test_memory_of_several_processes_is_added_up(tmp_path):
    for pid in (7, 8):
        write(tmp_path / str(pid) / "smaps_rollup", ROLLUP)
    assert read_memory([7, 8], tmp_path) == Memory(rss=2 * 12680, pss=2 * 9000)


def test_a_zombie_has_no_memory(tmp_path):
    write(tmp_path / "7" / "smaps_rollup", "")
    assert read_memory([7], tmp_path) == Memory(rss=0, pss=0)


def test_a_family_is_all_descendants_of_all_threads(tmp_path):
    write(tmp_path / "1" / "task" / "1" / "children", "2 3 ")
    write(tmp_path / "1" / "task" / "9" / "children", "4 ")
    write(tmp_path / "3" / "task" / "3" / "children", "5 ")
    assert family(1, tmp_path) == [1, 2, 3, 5, 4]


def test_a_family_is_found_among_real_processes():
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], stdout=subprocess.PIPE) as shell:
        shell.stdout.readline()
        members = family(shell.pid)
        for pid in reversed(members):
            os.kill(pid, 9)
    assert len(members) == 2


def test_epoll_entries_of_all_sets_are_counted(tmp_path):
    write(tmp_path / "7" / "fdinfo" / "3", EPOLL)
    write(tmp_path / "7" / "fdinfo" / "4", "pos:\t0\nflags:\t02\n")
    write(tmp_path / "8" / "fdinfo" / "3", EPOLL)
    assert count_epoll_entries([7, 8], tmp_path) == 4


def test_an_entry_whose_descriptor_was_closed_counts_as_long_as_somebody_holds_the_socket():
    before = count_epoll_entries([os.getpid()])
    with select.epoll() as epoll:
        reading, writing = os.pipe()
        held = os.dup(reading)
        epoll.register(reading)
        os.close(reading)
        assert count_epoll_entries([os.getpid()]) == before + 1
        os.close(held)
        assert count_epoll_entries([os.getpid()]) == before
        os.close(writing)


def test_descriptors_are_counted(tmp_path):
    for name in ("0", "1", "17"):
        write(tmp_path / "7" / "fd" / name, "")
    assert count_descriptors([7], tmp_path) == 3


def test_cpu_time_is_that_of_the_whole_process_ended_threads_included():
    def burn():
        end = time.thread_time() + 0.005
        while time.thread_time() < end:
            pass

    before = time.process_time()
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    least = time.process_time()
    found = cpu_seconds([os.getpid()])
    assert before + 0.005 <= least <= found <= time.process_time()


def test_a_process_that_is_gone_adds_nothing():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert cpu_seconds([gone.pid]) == 0
