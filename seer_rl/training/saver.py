"""Who writes what a run leaves: checkpoints, the agent after every evaluation, snapshots for looking inside."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from seer_rl.outside import again
from seer_rl.replay.replay import Replay
from seer_rl.text import quoted, refusal
from seer_rl.training import checkpoint
from seer_rl.training.events import Event, Fault, Metrics
from seer_rl.training.files import Bytes
from seer_rl.training.logger import Logger
from seer_rl.training.run import Run


class Saver:
    """Listens to a run, and writes when it says that something is due."""

    def __init__(self, run: Run, logger: Logger) -> None:
        self._logger = logger
        # Of the replay's segments, by name, as the newest checkpoint has them: what has not changed is not written again.
        self._blobs: dict[str, str] = run.resumed.blobs if run.resumed else {}

    def __call__(self, run: Run, event: Event | Metrics) -> None:
        """Write what is due. Raises OSError or Fault where that cannot be, and Diverged for weights that are no numbers."""
        match event:
            case Event.SAVING:
                run.require_finite_weights()
                self._save(run)
            case Event.EVALUATED:
                checkpoint.save_agent(run.run_dir, run.agent, run.config, run.frozen)
            case Event.SNAPSHOT:
                run.require_finite_weights()
                checkpoint.save_snapshot(run.run_dir, run.step, run.agent, run.config, run.frozen)

    def _save(self, run: Run) -> None:
        env = run.env_state()  # first: where it fails, the replay's episode is cut
        touched = run.replay.touched()
        written = {name: np.frombuffer(data, np.uint8) for name, data in self._logger.written().items()}
        state: dict[str, Any] = run.get_state() | {"env": env, "written": written}
        try:
            self._blobs = checkpoint.save(run.run_dir, run.step, state, self._pieces(run.replay, touched), run.config.keep)
        except OSError as error:
            run.replay.touch(touched)
            why = f"no checkpoint could be written at step {run.step:,} ({refusal(error)})"
            raise Fault(f"{why}; {way_back(run)}") from error
        run.saved = run.step

    def _pieces(self, replay: Replay, touched: set[int]) -> Iterator[tuple[str, Bytes | str]]:
        """Give the parts of a replay by name, one at a time: their bytes, or the blob that holds them already."""
        for i in range(replay.segment_count):
            name = f"replay/{i}"
            yield name, replay.segment(i) if i in touched or name not in self._blobs else self._blobs[name]
        for kind, parts in replay.books().items():
            yield from ((f"{kind}/{i}", data) for i, data in enumerate(parts))


def way_back(run: Run) -> str:
    """Say what is saved of a run that cannot go on."""
    if run.saved is None:
        return f"there is no checkpoint in {run.run_dir} yet"
    if run.saved == run.step:
        return f"everything up to it is saved: go on with: {again(f'seer resume {quoted(run.run_dir)}')}"
    return f"the checkpoint of step {run.saved:,} in {run.run_dir} is from before it"
