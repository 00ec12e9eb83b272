"""Runs a script as several real processes with `torchrun`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

import sparsewright
from helpers.processes import run_session

PATHS = [str(Path(__file__).parents[2]), str(Path(sparsewright.__file__).parents[1])]


def run_ranks(script: str, world: int, *arguments: object, timeout: float = 240) -> str:
    """Run a script of this folder in `world` processes on a free port; return its output.

    All its processes have ended when this returns or raises.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={world}", str(Path(__file__).parent / script)]
    env = {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}
    status, output = run_session([*command, *map(str, arguments)], env, timeout)
    assert status == 0, output[-6000:]
    return output


def as_rank(main: Callable[[], None]) -> None:
    """Run the main function of a worker as one of the ranks.

    Models are freed and ranks synchronize before they exit: gloo aborts a process that exits while
    a reducer of data parallelism, or another rank, still runs a thread.
    """
    dist.init_process_group("gloo")
    main()
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()
