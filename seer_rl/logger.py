"""One stream of metrics, to `metrics.csv` (a row per value: step, name, value) and to TensorBoard."""

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter


class Logger:
    """Appends metrics to the files of a run directory. Every call reaches the disk's cache before it returns."""

    def __init__(self, run_dir: Path) -> None:
        """`run_dir` exists; its metrics.csv does not."""
        self._file = (run_dir / "metrics.csv").open("x", newline="")
        self._csv = csv.writer(self._file)
        self._csv.writerow(("step", "name", "value"))
        self._tensorboard = SummaryWriter(str(run_dir))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write named numbers as of agent step `step`."""
        for name, value in metrics.items():
            self._csv.writerow((step, name, value))
            self._tensorboard.add_scalar(name, value, step)
        self._file.flush()

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._tensorboard.close()


def read(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run as (step, value) pairs. Raises ValueError if its metrics.csv is missing or damaged."""
    path = run_dir / "metrics.csv"
    metrics: dict[str, list[tuple[int, float]]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                metrics.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable list of metrics: {error}") from error
    return metrics
