"""Agreement among the processes of a command, with threads in place of processes; test_processes.py has real ones."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from sslshift import cluster
from sslshift.cluster import links, members
from sslshift.cluster.links import Link, listening
from sslshift.cluster.members import Coordinator, Hello, Participant

SAME = {"jax": "1"}


class EndedError(Exception):
    """In place of the end of a process."""


@pytest.fixture
def ends(monkeypatch):
    """Sentences and codes with which processes would have ended."""
    found = []

    def exit_now(message, code=1):
        found.append((message, code))
        raise EndedError

    monkeypatch.setattr(members, "exit_now", exit_now)
    # The thread that hears of an end is one that nobody waits for.
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    return found


def joined(count, hellos=None, timeout=20.0, strangers=()):
    """Returns the members, or the errors in their place, of processes that join through the loopback."""
    listener = listening("127.0.0.1", 0)
    address = listener.getsockname()
    hellos = hellos or [Hello(i, count, f"host{i}", SAME) for i in range(count)]
    deadline = time.monotonic() + timeout
    for text in strangers:
        with socket.create_connection(address) as stranger:
            stranger.sendall(text)

    def open_one(hello):
        try:
            if hello is hellos[0]:
                return Coordinator.open(listener, hello, deadline, timeout)
            return Participant.open([address], hello, deadline, timeout)
        except cluster.ClusterError as error:
            return error

    with ThreadPoolExecutor(len(hellos)) as pool:
        return list(pool.map(open_one, hellos))


def together(found, *calls):
    """Returns what each process gets, each with its own arguments, at the same time."""
    with ThreadPoolExecutor(len(found)) as pool:
        return list(pool.map(lambda pair: pair[0].gathered(*pair[1]), zip(found, calls, strict=True)))


def eventually(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def close(found):
    for member in reversed(found):
        member.close()


def test_every_process_gets_the_values_of_all_in_their_order():
    found = joined(3)
    assert together(found, *[("places", {"at": (i, i)}) for i in range(3)]) == [[{"at": [i, i]} for i in range(3)]] * 3
    for number in range(50):
        assert together(found, *[("numbers", number + i) for i in range(3)])[2] == [number, number + 1, number + 2]
    close(found)


def test_strangers_do_not_disturb_those_who_join():
    strangers = [b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x04null", b"\xff\xff\xff\xff", b""]
    found = joined(2, strangers=strangers)
    assert together(found, ("x", 1), ("x", 2)) == [[1, 2]] * 2
    close(found)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (Hello(1, 3, "b", SAME), "Process 1 on b was started with --num_processes=3, and process 0 with 2."),
        (Hello(0, 2, "b", SAME), "Two processes have --process_id=0, on a and on b."),
        (
            Hello(1, 2, "b", {"jax": "2"}),
            "The hosts have different versions: jax is 1 in process 0 and 2 in process 1. Install the same.",
        ),
    ],
)
def test_a_process_that_does_not_fit_ends_all_with_the_same_sentence(other, sentence):
    found = joined(2, [Hello(0, 2, "a", SAME), other])
    assert [str(each) for each in found] == [sentence] * 2


def test_two_processes_of_one_number_are_named():
    hellos = [Hello(0, 4, "a", SAME), *(Hello(1, 4, "b", SAME) for _ in range(2))]
    assert {str(each) for each in joined(3, hellos)} == {"Two processes have --process_id=1, on b and on b."}


def test_missing_processes_are_named_within_the_time_that_was_given():
    started = time.monotonic()
    found = joined(2, [Hello(0, 4, "a", SAME), Hello(2, 4, "c", SAME)], timeout=1.5)
    assert {str(each) for each in found} == {"2 of 4 processes joined within 1.5 s (--join_timeout); missing: 1, 3."}
    assert time.monotonic() - started < 10


def test_a_coordinator_that_does_not_answer_is_named():
    listener = listening("127.0.0.1", 0)
    address = listener.getsockname()
    listener.close()
    with pytest.raises(cluster.ClusterError, match=rf"^Process 0 did not answer at 127.0.0.1:{address[1]} within 0.5 s .*"):
        Participant.open([address], Hello(1, 2, "b", SAME), time.monotonic() + 0.5, 0.5)


def test_a_port_that_is_taken_is_named():
    listener = listening("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with pytest.raises(cluster.ClusterError, match=rf"^Process 0 cannot listen on port {port} .*must be free"):
        listening("127.0.0.1", port)
    listener.close()


@pytest.mark.parametrize("lost", [0, 1])
def test_the_death_of_a_process_ends_all_others(lost, ends):
    found = joined(3)
    # As the system closes the connections of a process that was killed.
    for link in [found[1]._link] if lost else [link for link, _ in found[0]._links.values()]:
        link._connection.shutdown(socket.SHUT_RDWR)
    # Process 0 may notice its own end first, and say so to the others.
    eventually(lambda: len(ends) >= 2)
    assert all("has ended, so that no process can go on" in message and code == 1 for message, code in ends)
    close(found)


def test_silence_counts_as_death(monkeypatch, ends):
    monkeypatch.setattr(members, "_BEAT", 0.05)
    monkeypatch.setattr(members, "SILENCE", 0.5)
    monkeypatch.setattr(Participant, "_beat", lambda self: None)
    found = joined(2)
    eventually(lambda: any("Process 1 on host1 gave no sign of life for 0.5 s" in message for message, _ in ends))
    close(found)


def test_signs_of_life_keep_a_quiet_process(monkeypatch, ends):
    monkeypatch.setattr(members, "_BEAT", 0.05)
    monkeypatch.setattr(members, "SILENCE", 0.5)
    found = joined(2)
    time.sleep(1.2)
    assert together(found, ("x", 1), ("x", 2)) == [[1, 2]] * 2
    assert not ends
    close(found)


@pytest.mark.parametrize("failing", [0, 1])
@pytest.mark.parametrize("code", [0, 1])
def test_the_reason_of_one_process_ends_all_others_with_its_code(failing, code, ends):
    found = joined(3)
    found[failing].fail("Stopped by SIGTERM.", code)
    told = "Process 1 on host1: Stopped by SIGTERM." if failing else "Process 0: Stopped by SIGTERM."
    eventually(lambda: len(ends) == 2)
    assert ends == [(told, code)] * 2
    close(found)


def test_processes_that_go_different_ways_end(ends):
    found = joined(2)
    threading.Thread(target=found[1].gathered, args=("the result in b", 1), daemon=True).start()
    eventually(lambda: found[0]._posts)
    with pytest.raises(EndedError):
        found[0].gathered("the result in a", 1)
    assert "process 0 at the result in a, process 1 at the result in b" in ends[0][0]
    close(found)


def test_a_message_of_any_size_arrives_whole():
    found = joined(2)
    text = "é" * 3_000_000
    assert together(found, ("long", text), ("long", "")) == [[text, ""]] * 2
    close(found)


def test_a_message_that_is_too_long_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr(links, "_LONGEST", 100)
    ours, theirs = map(Link, socket.socketpair())
    theirs.send("x" * 200)
    with pytest.raises(ValueError, match="a message of 202 bytes"):
        ours.receive()


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (("a:1", 2, 2), "Expected --process_id from 0 to 1 for --num_processes=2, got 2"),
        (("a:1", 2, -1), "Expected --process_id from 0 to 1 for --num_processes=2, got -1"),
        (("a:1", 0, 0), "Expected --num_processes of at least 1, got 0"),
        (("a", 2, 0), "Expected --coordinator_address as HOST:PORT with a port from 1 to 65,534, got 'a'"),
        ((":1", 2, 0), "Expected --coordinator_address as HOST:PORT"),
        (("a:65535", 2, 0), "Expected --coordinator_address as HOST:PORT"),
        (("a:x", 2, 0), "Expected --coordinator_address as HOST:PORT"),
    ],
)
def test_places_that_cannot_be(place, sentence):
    with pytest.raises(ValueError, match=sentence):
        cluster.ClusterPlace(*place)


def test_addresses_of_version_6():
    place = cluster.ClusterPlace("[::1]:700", 2, 0)
    assert (place.address, place.jax_address) == (("::1", 700), "[::1]:701")


def test_a_process_alone_agrees_with_itself():
    assert (cluster.process_index(), cluster.process_count(), cluster.is_first()) == (0, 1, True)
    value = object()
    assert cluster.gathered("x", value) == [value]
    assert cluster.first("x", lambda: value) is value
    cluster.require_equal("anything", {"a": value}, "")
    cluster.leave()
