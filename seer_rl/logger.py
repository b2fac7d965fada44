"""One stream of metrics, to CSV (a row per value: step, name, value) and to TensorBoard.

`metrics.csv` holds what the same settings and seed always give, `clock.csv` what depends on the machine: speed, time, memory.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

METRICS, CLOCK = "metrics.csv", "clock.csv"
HEADER = "step,name,value\r\n"


class Logger:
    """Appends metrics to the files of a run directory. Every call reaches the system before it returns."""

    def __init__(self, run_dir: Path, step: int = 0, written: Mapping[str, bytes] | None = None) -> None:
        """Begin the files of `run_dir`; or go on after `step`, with what `written` says they held then."""
        self._files = {}
        for name in (METRICS, CLOCK):
            (run_dir / name).write_bytes((written or {}).get(name, HEADER.encode()))
            self._files[name] = (run_dir / name).open("a", newline="")
        self._tensorboard = SummaryWriter(str(run_dir), purge_step=step + 1 if written else None)

    def log(self, step: int, metrics: Mapping[str, float], clock: bool = False) -> None:
        """Write named numbers as of agent step `step`. clock: they depend on the machine."""
        file = self._files[CLOCK if clock else METRICS]
        csv.writer(file).writerows((step, name, value) for name, value in metrics.items())
        file.flush()
        for name, value in metrics.items():
            self._tensorboard.add_scalar(name, value, step)

    def written(self) -> dict[str, bytes]:
        """What the files hold now."""
        return {name: Path(file.name).read_bytes() for name, file in self._files.items()}

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            file.close()
        self._tensorboard.close()


def read(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run as (step, value) pairs. Raises ValueError if its files are missing or damaged."""
    metrics: dict[str, list[tuple[int, float]]] = {}
    for name in (METRICS, CLOCK):
        path = run_dir / name
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    metrics.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a readable list of metrics: {error}") from error
    return metrics
