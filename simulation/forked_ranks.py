"""Trains in two processes each, several times at once, with imports made once for all of them.

`python -m simulation.forked_ranks FOLDER "OPTION OPTION" ...` takes options of `simulation.ranks`
for each training. What training number n prints is in FOLDER/n/stdout and FOLDER/n/stderr, its
trace beside them. Prints a line of JSON with the exit statuses of both ranks of each.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path

from simulation import ranks


def free_port() -> int:
    """One at which the ranks of a training may meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(rank: int, port: int, folder: Path, options: list[str]) -> int:
    """Fork a rank, as whoever starts the processes of a training from outside; returns its pid."""
    pid = os.fork()
    if pid == 0:
        for name, number in (("stdout", 1), ("stderr", 2)):
            with open(folder / name, "a", encoding="utf-8") as file:
                os.dup2(file.fileno(), number)
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
        }
        ranks.main(folder, *options)
        sys.exit(0)
    return pid


def main(folder: Path, *trainings: str) -> None:
    pids = []
    for number, options in enumerate(trainings):
        place = folder / str(number)
        place.mkdir(parents=True)
        port = free_port()
        pids.append([start(rank, port, place, options.split()) for rank in (0, 1)])
    statuses = [[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in two] for two in pids]
    print(json.dumps(statuses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
