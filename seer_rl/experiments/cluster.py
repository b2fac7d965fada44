"""Trains the runs of a sweep on a Ray cluster.

Each run is a task. Where its node dies, it goes on from its newest checkpoint on another node.
"""

import contextlib
import logging
import os
import socket
from pathlib import Path
from typing import Any

from seer_rl.experiments import worker
from seer_rl.outside import TRUSTED
from seer_rl.text import install


def work(run_dir: str) -> int:
    """Begin or go on with a run, as on one machine, and return the exit code of its process. This is the task."""
    process = worker.start(Path(run_dir))
    try:
        return process.wait()
    except BaseException:  # cancelled: KeyboardInterrupt here, where the run shall stop with a checkpoint
        process.terminate()
        process.wait()
        raise


class Cluster:
    """Begins runs on the cluster at `address`; "local" makes one of this machine. Run directories must be seen by all nodes."""

    def __init__(self, address: str, threads: int) -> None:
        """Connect to the cluster. threads: cores that a run takes.

        Raises ImportError without the extra [ray], ValueError if no cluster answers.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError(f"--ray needs the extra [ray]: {install('ray')}") from error
        self._ray: Any = ray
        try:
            host, _, port = address.removeprefix("ray://").rpartition(":")
            if host:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            trusted = {
                name: os.environ[name] for name in (TRUSTED,) if name in os.environ
            }  # what the user said here counts there
            self._ray.init(address, runtime_env={"env_vars": trusted}, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(f"no Ray cluster answers at {address!r} ({why}): start one with `ray start --head`") from error
        self.jobs = max(1, int(self._ray.cluster_resources().get("CPU", 0)) // threads)
        self._work = ray.remote(num_cpus=threads, max_retries=-1)(work)  # retried where a node dies

    def __call__(self, run_dir: Path) -> "Task":
        """Begin or go on with the run in a directory."""
        return Task(self._ray, self._work.remote(str(run_dir.resolve())))


class Task:
    """Stands for a run somewhere in the cluster, as a `Process`."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray, self._reference = ray, reference

    def poll(self) -> int | None:
        """Return the exit code of the run's process: 143 if it was cancelled, -9 if it was lost; None while it goes on."""
        done, _ = self._ray.wait([self._reference], timeout=0)
        if not done:
            return None
        try:
            code: int = self._ray.get(self._reference)
            return code
        except self._ray.exceptions.TaskCancelledError:
            return 143
        except self._ray.exceptions.RayError:
            return -9

    def terminate(self) -> None:
        """Ask the run to stop with a checkpoint."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.cancel(self._reference)
