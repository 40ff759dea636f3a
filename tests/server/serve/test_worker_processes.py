"""What the parent of the worker processes relies on: forks beside its threads, and the end of a worker.

Each test runs a process of its own: an audit hook stays for ever, and a fork warns in a process with threads.
"""

from __future__ import annotations

import socket
import subprocess
import sys

COUNTS_LOOKUPS = """
import sys, threading
from boltseal.server.listen_address import ListenAddress
from boltseal.server.supervisor import call_when_listening

lookups = []
sys.addaudithook(lambda event, arguments: lookups.append(event) if event == "socket.getaddrinfo" else None)
found = threading.Event()
call_when_listening(ListenAddress.parse(sys.argv[1]), found.set)
print(found.wait(30), len(lookups))
"""
STOPS_BEFORE_IT_RUNS = """
import asyncio, os, signal, sys, uvloop
from boltseal.server.dropped_signals import deliver_dropped_signals

async def start():
    if "with" in sys.argv:
        deliver_dropped_signals()

async def main():
    try:
        await asyncio.wait_for(stopped.wait(), 60 if "with" in sys.argv else 0.5)
    except TimeoutError:
        pass

loop, stopped = uvloop.new_event_loop(), asyncio.Event()
loop.add_signal_handler(signal.SIGTERM, stopped.set)
loop.run_until_complete(start())
os.kill(os.getpid(), signal.SIGTERM)
loop.run_until_complete(main())
print(stopped.is_set())
"""
COLLECTS_A_WORKER = """
import os
from granian.server.mp import WorkerProcess
from boltseal.server.supervisor import Worker

worker = WorkerProcess(None, 0, os.getpid, ())
worker.inner.start()
os.waitpid(worker.inner.pid, 0)
by_granian = worker.is_alive()
worker.__class__ = Worker
print(by_granian, worker.is_alive())
"""


def printed(code: str, *arguments: str) -> str:
    """Return what a program prints."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def test_the_wait_for_the_first_worker_looks_up_no_name() -> None:
    """No thread looks up a name while workers are forked, because a fork during `getaddrinfo` hangs the worker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = printed(COUNTS_LOOKUPS, f"127.0.0.1:{listener.getsockname()[1]}")

    assert found == "True 0\n"


def test_a_signal_between_start_and_main_loop_is_handled() -> None:
    """uvloop drops it by itself: a server that was stopped as soon as it listened killed its worker after four seconds."""
    assert printed(STOPS_BEFORE_IT_RUNS, "with") == "True\n"
    assert printed(STOPS_BEFORE_IT_RUNS, "without") == "False\n"


def test_a_worker_that_another_thread_collected_has_ended() -> None:
    """A worker that another thread has waited for counts as ended, so that its process id gets no SIGKILL."""
    assert printed(COLLECTS_A_WORKER) == "True False\n"
