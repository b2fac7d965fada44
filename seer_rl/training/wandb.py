"""Metrics to Weights & Biases, beside the files of the run directory. Needs the extra [wandb]."""

import hashlib
import os
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from seer_rl import outside
from seer_rl.text import install
from seer_rl.training.config import WANDB, flat
from seer_rl.training.events import Event, Metrics
from seer_rl.training.run import Run

PROJECT = "seer-rl"


class WeightsAndBiases:
    """Listens to a run and sends its metrics. The service's own WANDB_* variables say where, and whether at once or later.

    A resumed run goes on in its own page: it is known by its directory. The service writes nothing there, and reads nothing:
    anybody's files may lie in it.
    """

    def __init__(self) -> None:
        """Begin the library. Raises ImportError without the extra, ValueError where only a file asks for it, not the user."""
        if find_spec("wandb") is None:
            raise ImportError(f"--log wandb needs the extra [wandb]: {install('wandb')}")
        outside.load(WANDB, "logger")
        import wandb

        self._library: Any = wandb
        self._page: Any = None

    def __call__(self, run: Run, event: Event | Metrics) -> None:
        """Send the metrics of an event; before the first, begin the page. Raises OSError where the service refuses."""
        if isinstance(event, Metrics):
            self._page = self._page or self._begun(run)
            self._page.log(dict(event.values), step=run.step)

    def _begun(self, run: Run) -> Any:
        told = {
            name: value if isinstance(value, int | float | None) else str(value) for name, value in flat(run.config).items()
        }
        try:
            return self._library.init(
                project=PROJECT,
                name=run.run_dir.name,
                id=hashlib.sha256(os.fsencode(run.run_dir.resolve())).hexdigest()[:16],
                resume="allow",
                config=told,
                settings=self._library.Settings(console="off", silent=True),
            )
        except self._library.Error as error:
            raise OSError(f"Weights & Biases: {error}; with WANDB_MODE=offline nothing is sent for now") from error

    def __enter__(self) -> "WeightsAndBiases":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._page:
            self._page.finish(exit_code=0 if error is None else 1)
