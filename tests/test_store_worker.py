"""A store that hangs changes nothing of how a process ends, however long it hangs."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch.distributed")
needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

TCP = 'store = dist.TCPStore("127.0.0.1", 0, 1, True)'
# A store within others, as torch's own process groups make it.
PREFIXED = f"{TCP}; store = dist.PrefixStore('a', dist.PrefixStore('b', store))"
ASK_ON = "worker.send(lambda store: [store.check(['nothing']) for _ in range(10**7)])"
# It would answer, with an error, after all that the exit waits for.
ANSWER_LATE = """
import datetime
worker.send(lambda store: (store.set_timeout(datetime.timedelta(seconds=7.5)), store.get('no')))
"""
# Python takes its time to end: its last objects are let go while the answer comes.
END_SLOWLY = """
import time
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(1.0)
sys.modules["slow"] = Slow()
"""

SCRIPT = """
import sys
import torch.distributed as dist
from energyest.distributed.store_worker import StoreWorker
{store}
worker = StoreWorker(store)
{question}
{end_slowly}
sys.exit(3)
"""

# A store whose machine stops, and answers again just when the process that asks it is ending.
MASTER = """
import time
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, 1, True, wait_for_workers=False)
print(store.port, flush=True)
time.sleep(300)
"""
STOPPED = """
import os, signal, subprocess, sys
import torch.distributed as dist
from energyest.distributed.store_worker import StoreWorker
port, master = int(sys.argv[1]), int(sys.argv[2])
store = dist.TCPStore("127.0.0.1", port, None, False, wait_for_workers=False)
worker = StoreWorker(store)
told = worker.send(lambda store: store.set("a", "b"))
assert told.wait(60) and told.succeeded
os.kill(master, signal.SIGSTOP)
def state(thread):
    return open(f"/proc/{master}/task/{thread}/stat").read().rpartition(") ")[2][0]
while {state(thread) for thread in os.listdir(f"/proc/{master}/task")} != {"T"}:
    pass  # it stops when the machine comes to it
asked = worker.send(lambda store: store.check(["a"]))
assert not asked.wait(0.2)
assert store.host  # the training's own connection is not the one that waits
subprocess.Popen(["sh", "-c", f"sleep 7.5; kill -CONT {master}"])
"""


@pytest.mark.parametrize(
    ("store", "question"),
    [
        (TCP, ASK_ON),
        pytest.param(PREFIXED, ASK_ON, marks=pytest.mark.long),
        pytest.param(TCP, ANSWER_LATE, marks=pytest.mark.long),
        ("store = dist.HashStore()", ASK_ON),
    ],
    ids=["asked all along", "a store within others", "answers while Python ends", "no network"],
)
def test_a_process_ends_with_its_own_status(store: str, question: str) -> None:
    script = SCRIPT.format(store=store, question=question, end_slowly=END_SLOWLY)
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 3


@needs_proc
@pytest.mark.long
def test_a_store_that_answers_again_while_the_process_ends() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MASTER], stdout=subprocess.PIPE, text=True
    ) as master:
        assert master.stdout is not None
        port = master.stdout.readline().strip()
        script = f"{STOPPED}{END_SLOWLY}sys.exit(5)"
        asker = [sys.executable, "-c", script, port, str(master.pid)]
        try:
            assert subprocess.run(asker, check=False).returncode == 5
        finally:
            master.kill()
