"""Runs of several processes, in one program that has imported all they need before it forks them.

    python -m tests.training.ranks SCENARIOS.json

A scenario has a ``name`` and a configuration per process, and perhaps a ``kill``: which process
dies by its own hand before which step. Then all are started once more, as torchrun does it, and
told so in torchrun's words. What each process says goes to ``NAME.RANK.log`` beside the file, its
exit status to ``NAME.RANK.status``.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from ecar_lab.errors import EcarError
from ecar_lab.training import loop
from ecar_lab.training.config import ModelTrainConfig
from ecar_lab.training.model import train_model

METHOD = "fork" if sys.platform == "linux" else "spawn"
USER_ERROR = 2


def work(folder: Path, scenario: dict[str, Any], rank: int, place: dict[str, str]) -> None:
    """The life of one process, whose place the environment tells."""
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
    log = os.open(folder / f"{scenario['name']}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    loop.matmul_rate = lambda dtype, device: 1e12
    kill = scenario.get("kill")
    if kill and kill["rank"] == rank and place["TORCHELASTIC_RESTART_COUNT"] == "0":
        step_on = loop.Trainer._optimizer_step

        def die_before(trainer: loop.Trainer, *others: Any) -> None:
            if trainer.step == kill["step"]:
                os.kill(os.getpid(), signal.SIGKILL)
            step_on(trainer, *others)

        loop.Trainer._optimizer_step = die_before
    try:
        train_model(ModelTrainConfig(**scenario["configs"][rank]))
    except EcarError as error:
        print(f"error: {error}", flush=True)
        sys.exit(USER_ERROR)


def live(folder: Path, scenario: dict[str, Any], life: int) -> list[int | None]:
    """One life of all processes; their exit statuses."""
    count = len(scenario["configs"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if scenario.get("kill"):
        place |= {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": str(life)}
    context = multiprocessing.get_context(METHOD)
    processes = [
        context.Process(target=work, args=(folder, scenario, rank, place)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def main() -> None:
    file = Path(sys.argv[1])
    for scenario in json.loads(file.read_text()):
        lives = [live(file.parent, scenario, life=0)]
        if scenario.get("kill"):
            lives.append(live(file.parent, scenario, life=1))
        (file.parent / f"{scenario['name']}.json").write_text(json.dumps(lives))


if __name__ == "__main__":
    main()
