"""Read what earlier versions saved of a replay: records that held observation, reward, action and flags side by side."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from seer_rl.replay.arena import Layout
from seer_rl.replay.lane import STATE
from seer_rl.replay.observation import ONLY


def renamed(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a replay of one lane as `Replay.get_state` gives it today."""
    lane = {name: state[name] for name in STATE}
    codecs = state["rewritten"] and {ONLY: state["rewritten"]}
    return state | {"lanes": [lane], "observation": {ONLY: state["observation"]}, "rewritten": codecs}


def split(
    records: Iterable[bytes], priorities: Iterable[bytes], state: dict[str, Any], layout: Layout, steps: np.dtype[Any]
) -> tuple[Iterator[bytes], Mapping[str, Iterable[bytes]]]:
    """Split records into rows of observations, and pieces of everything else, as `Replay.set_state` takes them.

    layout: of an observation. steps: the dtype of reward, action and flags. The second result is there once the first is read.
    """
    column, books = layout.columns[ONLY], list[bytes]()
    observation = ("obs", str(column.dtype).removeprefix("torch."), (column.copies, *column.shape))
    record = np.dtype([observation, *((name, steps[name]) for name in ("reward", "action", "flags"))], align=True)

    def rows() -> Iterator[bytes]:
        for piece in records:
            held = np.frombuffer(piece, record)
            of_steps = np.zeros(len(held), steps)
            for name in steps.names or ():
                of_steps[name] = held[name]
            books.append(of_steps.tobytes())
            padded = np.zeros((len(held), layout.row_bytes), np.uint8)
            padded[:, : column.nbytes] = np.ascontiguousarray(held["obs"]).view(np.uint8).reshape(len(held), -1)
            yield padded.tobytes()

    if "tree" in state:  # version 0.1.0 saved all nodes of the tree
        nodes = np.asarray(state["tree"])
        priorities = [nodes[len(nodes) // 2 :][: state["size"]].tobytes()]
    return rows(), {"steps": books, "priorities": priorities}
