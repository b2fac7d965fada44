"""One stream of metrics, to CSV (a row per value: step, name, value) and to TensorBoard.

`metrics.csv` holds what the same settings and seed always give, `clock.csv` what depends on the machine: speed, time, memory.
"""

import contextlib
import csv
import io
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from seer_rl.training import files
from seer_rl.training.files import Folder

METRICS, CLOCK = "metrics.csv", "clock.csv"
HEADER = "step,name,value\r\n"
MOST = 10**15  # no run has more steps


class Logger:
    """Appends metrics to the files of a run directory. Every call reaches the system before it returns."""

    def __init__(self, run_dir: Path, step: int = 0, written: Mapping[str, bytes] | None = None) -> None:
        """Begin the files of `run_dir`; or go on after `step`, with what `written` says they held then. Raises OSError."""
        self._files = {}
        self._run_dir = run_dir
        with Folder(run_dir) as folder:
            for name in (METRICS, CLOCK):
                folder.write(name, (written or {}).get(name, HEADER.encode()), durable=False)
                self._files[name] = folder.append(name)
        suffix = f".{secrets.token_hex(8)}"  # its name cannot be known before, so that no link can wait there
        self._tensorboard: SummaryWriter | None = None
        if files.encodable(str(run_dir)):
            self._tensorboard = SummaryWriter(str(run_dir), purge_step=step + 1 if written else None, filename_suffix=suffix)
        else:
            warnings.warn("nothing is written for TensorBoard, which needs a directory whose name is UTF-8", stacklevel=2)

    def log(self, step: int, metrics: Mapping[str, float], clock: bool = False) -> None:
        """Write named numbers as of agent step `step`. clock: they depend on the machine. Raises OSError."""
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows((step, name, value) for name, value in metrics.items())
        file = self._files[CLOCK if clock else METRICS]
        file.write(rows.getvalue().encode())
        file.flush()
        if self._tensorboard:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)

    def written(self) -> dict[str, bytes]:
        """Return what the files hold now."""
        with Folder(self._run_dir) as folder:
            return {name: folder.read(name) for name in self._files}

    def sync(self) -> None:
        """Wait until everything is on the disk. Raises OSError."""
        if self._tensorboard:
            self._tensorboard.flush()
        for file in self._files.values():
            os.fsync(file.fileno())

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # a full disk was told of where the number was logged
                file.close()
        if self._tensorboard:
            with contextlib.suppress(OSError):
                self._tensorboard.close()


def read(run_dir: Path, names: Sequence[str] = (METRICS, CLOCK)) -> dict[str, list[tuple[int, float]]]:
    """Read every metric of a run as (step, value) pairs, whose steps never fall.

    Raises ValueError, in a sentence, if the run's files are missing or damaged.
    """
    metrics: dict[str, list[tuple[int, float]]] = {}
    for name in names:
        path = run_dir / name
        try:
            text = files.read(path).decode()
            rows = csv.reader(io.StringIO(text, newline=""), strict=True)
            if next(rows, None) != HEADER.strip().split(","):
                raise ValueError(f"it does not begin with {HEADER.strip()}")
            if not text.endswith("\n"):
                raise ValueError("its last line is torn")
            for at, metric, value in rows:
                step, series = int(at), metrics.setdefault(metric, [])
                if not 0 <= step <= MOST:
                    raise ValueError(f"{metric[:80]!r} has a step that cannot be, {step:,}")
                if series and step < series[-1][0]:
                    raise ValueError(f"{metric[:80]!r} goes back from step {series[-1][0]:,} to {step:,}")
                series.append((step, float(value)))
        except (OSError, ValueError, csv.Error) as error:
            raise ValueError(f"{path} is not a readable list of metrics: {error}") from error
    return metrics
