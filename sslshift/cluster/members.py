"""Members of a cluster: each sends process 0 a greeting, values to agree on, and the reason of its end."""

import collections
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from sslshift.cluster.links import SILENCE, ClusterError, Link, connected, exit_now, readable, send_quietly

# Seconds between two signs of life.
_BEAT = 5


class Hello(NamedTuple):
    """Greeting of a process that joins."""

    process: int
    processes: int
    host: str
    versions: dict[str, str]

    @classmethod
    def of(cls, message: Any) -> "Hello":
        """Returns the greeting in a message; raises TypeError, KeyError or ValueError for a message of a stranger."""
        said = message["hello"]
        return cls(int(said["process"]), int(said["processes"]), str(said["host"])[:255], dict(said["versions"]))


class ClusterMember:
    """This process in a cluster: it posts values and waits for those of all."""

    def __init__(self, hello: Hello):
        self.index = hello.process
        self.count = hello.processes
        self._number = 0
        self._values: dict[int, list[Any]] = {}
        self._arrived = threading.Condition()
        self._closed = False

    def gathered(self, label: str, value: Any) -> list[Any]:
        number = self._number
        self._number += 1
        self._post(number, label, value)
        with self._arrived:
            self._arrived.wait_for(lambda: number in self._values)
            return self._values.pop(number)

    def close(self) -> None:
        self._closed = True

    def _deliver(self, number: int, values: list[Any]) -> None:
        with self._arrived:
            self._values[number] = values
            self._arrived.notify_all()

    def _post(self, number: int, label: str, value: Any) -> None:
        raise NotImplementedError

    def fail(self, message: str, code: int) -> None:
        """Ends all other processes with the sentence and the exit code of this one."""
        raise NotImplementedError


class Coordinator(ClusterMember):
    """Process 0, to which all others are connected."""

    def __init__(self, hello: Hello, links: Mapping[int, tuple[Link, str]]):
        super().__init__(hello)
        self._links = links
        self._posts: dict[int, dict[int, tuple[str, Any]]] = collections.defaultdict(dict)
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        for process in links:
            threading.Thread(target=self._listen, args=[process], daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def open(cls, listener: socket.socket, hello: Hello, deadline: float, timeout: float) -> "Coordinator":
        links: dict[int, tuple[Link, str]] = {}
        problem = ""
        while len(links) < hello.processes - 1 and not problem:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link = Link(listener.accept()[0])
            except TimeoutError:
                problem = _incomplete(hello.processes, links, timeout)
                break
            try:
                link.wait(_BEAT)
                other = Hello.of(link.receive())
                link.wait(SILENCE)
            except (OSError, ValueError, TypeError, KeyError):
                # A stranger, such as a port scanner.
                link.close()
                continue
            problem = _refusal(hello, other, links)
            # One that is refused gets the reason too.
            links[other.process if not problem else -1] = (link, other.host)
        listener.close()
        if problem:
            for link, _ in links.values():
                send_quietly(link, {"end": problem})
            raise ClusterError(problem)
        for link, _ in links.values():
            link.send({"go": True})
        return cls(hello, links)

    def _post(self, number: int, label: str, value: Any) -> None:
        self._received(0, number, label, value)

    def _received(self, process: int, number: int, label: str, value: Any) -> None:
        with self._lock:
            posts = self._posts[number]
            posts[process] = (label, value)
            labels = {each: label for each, (label, _) in posts.items()}
            if len(posts) < self.count and len(set(labels.values())) == 1:
                return
            del self._posts[number]
        if len(set(labels.values())) > 1:
            one, other = sorted(set(labels.values()))[:2]
            ways = ", ".join(
                f"process {min(each for each in labels if labels[each] == label)} at {label}" for label in (one, other)
            )
            self._end_all(
                f"The processes went different ways ({ways}), as when their files differ; the same command continues if all of "
                "them see the same files."
            )
        values = [posts[each][1] for each in range(self.count)]
        for link, _ in self._links.values():
            send_quietly(link, {"number": number, "values": values})
        # Through JSON as in the other processes, where tuples become lists.
        self._deliver(number, json.loads(json.dumps(values)))

    def _listen(self, process: int) -> None:
        link, host = self._links[process]
        try:
            while True:
                message = link.receive()
                if "failed" in message:
                    self._end_all(f"Process {process} on {host}: {message['failed']}", int(message["code"]), but=process)
                elif "leaving" in message:
                    return
                elif "number" in message:
                    self._received(process, int(message["number"]), str(message["label"]), message["value"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self._closed:
                silent = f"gave no sign of life for {SILENCE} s" if isinstance(error, TimeoutError) else "has ended"
                self._end_all(
                    f"Process {process} on {host} {silent}, so that no process can go on; the same command continues.",
                    but=process,
                )

    def _beat(self) -> None:
        while not self._closed:
            time.sleep(_BEAT)
            for link, _ in self._links.values():
                send_quietly(link, {"beat": True})

    def fail(self, message: str, code: int) -> None:
        with self._ending:
            for link, _ in self._links.values():
                send_quietly(link, {"end": f"Process 0: {message}", "code": code})

    def _end_all(self, message: str, code: int = 1, but: int = 0) -> NoReturn:
        # Several processes may end at once; the first reason counts.
        with self._ending:
            for process, (link, _) in self._links.items():
                if process != but:
                    send_quietly(link, {"end": message, "code": code})
            exit_now(message, code)

    def close(self) -> None:
        super().close()
        for link, _ in self._links.values():
            link.close()


class Participant(ClusterMember):
    """A process other than 0."""

    def __init__(self, hello: Hello, link: Link):
        super().__init__(hello)
        self._link = link
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()

    @classmethod
    def open(cls, addresses: list[tuple[str, int]], hello: Hello, deadline: float, timeout: float) -> "Participant":
        link = connected(addresses, deadline, timeout)
        link.send({"hello": hello._asdict()})
        # Process 0 answers when all have joined, and beats only after that.
        link.wait(max(1, deadline - time.monotonic()) + _BEAT)
        try:
            answer = link.receive()
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"Process 0 at {readable(addresses)} ended or did not answer within {timeout:g} s (--join_timeout)."
            ) from error
        if "end" in answer:
            raise ClusterError(str(answer["end"]))
        link.wait(SILENCE)
        return cls(hello, link)

    def _post(self, number: int, label: str, value: Any) -> None:
        send_quietly(self._link, {"number": number, "label": label, "value": value})

    def _listen(self) -> None:
        try:
            while True:
                message = self._link.receive()
                if "end" in message:
                    exit_now(str(message["end"]), int(message["code"]))
                elif "values" in message:
                    self._deliver(int(message["number"]), message["values"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if not self._closed:
                silent = f"gave no sign of life for {SILENCE} s" if isinstance(error, TimeoutError) else "has ended"
                exit_now(f"Process 0 {silent}, so that no process can go on; the same command continues.")

    def _beat(self) -> None:
        while not self._closed:
            time.sleep(_BEAT)
            send_quietly(self._link, {"beat": True})

    def fail(self, message: str, code: int) -> None:
        send_quietly(self._link, {"failed": message, "code": code})

    def close(self) -> None:
        super().close()
        send_quietly(self._link, {"leaving": True})
        self._link.close()


def _incomplete(count: int, links: Mapping[int, Any], timeout: float) -> str:
    missing = [str(each) for each in range(1, count) if each not in links]
    some = ", ".join(missing[:20]) + (" and others" if len(missing) > 20 else "")
    return f"{len(links) + 1} of {count} processes joined within {timeout:g} s (--join_timeout); missing: {some}."


def _refusal(hello: Hello, other: Hello, links: Mapping[int, tuple[Link, str]]) -> str:
    """Returns why a process cannot join; empty if it can."""
    if other.processes != hello.processes:
        return (
            f"Process {other.process} on {other.host} was started with --num_processes={other.processes}, and process 0 with "
            f"{hello.processes}."
        )
    if other.process == 0 or other.process in links:
        there = hello.host if other.process == 0 else links[other.process][1]
        return f"Two processes have --process_id={other.process}, on {there} and on {other.host}."
    difference = difference_of([hello.versions, other.versions])
    if difference:
        difference = difference.replace("process 1", f"process {other.process}")
        return f"The hosts have different versions: {difference}. Install the same."
    return ""


def difference_of(values: list[dict[str, Any]]) -> str:
    """Returns the first name whose value is not that of process 0, with both values; empty if there is none."""
    for process, other in enumerate(values):
        for name in values[0] | other:
            if values[0].get(name) != other.get(name):
                return f"{name} is {values[0].get(name)} in process 0 and {other.get(name)} in process {process}"
    return ""
