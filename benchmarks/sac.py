"""An update of CURL (or RAD, SAC, DrQ-v2) before and after the freeze, and what a new observation costs.

    python -m benchmarks.sac                                  # CURL on cartpole-swingup's sizes, batch 128, one thread
    python -m benchmarks.sac --threads 2 --precision bfloat16
    python -m benchmarks.sac --agent rad --peer               # beside Stable-Baselines3's SAC (pip install it first)

Observations are noise: no operation depends on what they show. The two sides take turns, so that whatever slows the machine
otherwise slows both.
"""

import statistics
import time
from contextlib import closing
from dataclasses import replace
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks import machine
from seer_rl import envs
from seer_rl.agents.augment import center_crop
from seer_rl.agents.networks import encoder, output_shape
from seer_rl.agents.sac import SACConfig
from seer_rl.seer import freeze
from seer_rl.training import process
from seer_rl.training.config import SeerConfig
from seer_rl.training.presets import configure
from seer_rl.training.run import Run

ROUNDS = 12


def peer_updates(
    name: str, batch_size: int, crop: int, embedding: int, hidden: int, device: torch.device, count: int = 8
) -> list[float]:
    """Seconds of single updates of Stable-Baselines3's SAC with its CnnPolicy on the same environment, batch and network.

    The encoder is ours, on the middle of the image; actor and critic share it.
    """
    from stable_baselines3 import SAC
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Extractor(BaseFeaturesExtractor):
        def __init__(self, space: gym.spaces.Box) -> None:
            super().__init__(space, embedding)
            size = min(crop, space.shape[-1])
            self.crop, self.convolutions = size, encoder("sac-ae", (space.shape[0], size, size))
            features = output_shape(self.convolutions, (space.shape[0], size, size), torch.uint8)[0]
            self.embedding = nn.Sequential(nn.Linear(features, embedding), nn.LayerNorm(embedding))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            z: torch.Tensor = self.embedding(
                self.convolutions.lower(center_crop(images, (self.crop, self.crop)))
            )  # they come as floats
            return z

    with closing(envs.make(name, training=True)) as env:
        policy = {
            "features_extractor_class": Extractor,
            "normalize_images": False,
            "share_features_extractor": True,
            "net_arch": [hidden, hidden],
        }
        model = SAC("CnnPolicy", env, policy_kwargs=policy, buffer_size=1_000, learning_starts=300, device=device)
        model.learn(300)
        times = []
        for _ in range(2 + count):
            begun = time.perf_counter()
            model.train(gradient_steps=1, batch_size=batch_size)
            times.append(time.perf_counter() - begun)
        return times[2:]


def main(
    agent: Literal["curl", "rad", "sac", "drqv2"] = "curl",
    env: str = "dmc/cartpole-swingup",
    batch_size: int = 128,
    precision: Literal["float32", "bfloat16"] = "float32",
    threads: int = 1,
    copies: int = 4,
    steps: int = 600,
    peer: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
) -> None:
    """Print the table.

    Args:
        agent: Whose update.
        env: Whose observations and actions.
        batch_size: Transitions per update, on both sides.
        precision: Of the encoder's products.
        threads: CPU threads.
        copies: K.
        steps: In the replay.
        peer: Also time Stable-Baselines3's SAC.
        device: Of the agent; auto: cuda where there is one.
    """
    config = configure(env, agent)
    config = replace(
        config,
        steps=10_000,
        agent=replace(config.agent, batch_size=batch_size, learning_starts=0),
        seer=SeerConfig(freeze_step=5_000, copies=copies),
        precision=precision,
        threads=threads,
        device=device,
    )
    process.prepare(config)
    console = Console()
    runs = [Run(config) for _ in range(2)]
    where = runs[0].device
    rng = np.random.default_rng(0)
    shape = runs[0].eval_env.observation_space.shape or ()
    frames = rng.integers(0, 256, (64, *shape), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (64, *(runs[0].eval_env.action_space.shape or ()))).astype(np.float32)
    for run in runs:
        run.replay.begin(frames[0][None])
        for i in range(steps):
            run.replay.add([actions[i % 64]], [0.0], [False], [False], frames[i % 64][None])
    begun = time.perf_counter()
    freeze(runs[1].agent, runs[1].replay, copies=copies)
    machine.finish(where)
    freezing, frozen = time.perf_counter() - begun, runs[1].replay.size
    runs[1].frozen_at = 0

    times: list[dict[str, list[float]]] = [{}, {}]

    def timed(side: int, what: str, work: object) -> None:
        begun = time.perf_counter()
        work()  # type: ignore[operator]
        machine.finish(where)
        times[side].setdefault(what, []).append(time.perf_counter() - begun)

    for turn in range(ROUNDS):
        for side, run in enumerate(runs):
            for i in range(2 if side == 0 else 20):
                timed(side, "sample", lambda run=run: setattr(run, "batch", run.replay.sample(batch_size).to(where)))
                timed(side, "update", lambda run=run: run.agent.update(run.batch))
                timed(
                    side, "store", lambda run=run, i=i: run.replay.add([actions[i]], [0.0], [False], [False], frames[i][None])
                )
                timed(side, "act", lambda run=run: run.agent.act(run.replay.observation.to(where)))
        if turn == 0:
            times = [{}, {}]  # the first turn warms up

    table = Table(title=f"{agent}, batch {batch_size}, {precision}: milliseconds, median (tenth to ninetieth percentile)")
    for column in ("", "on images", "on embeddings", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for what in ("update", "sample", "store", "act"):
        cells, medians = [], []
        for side in (0, 1):
            values = [1e3 * t for t in times[side][what]]
            if what == "update" and agent != "drqv2":  # of two updates, one is also the actor's
                values = [(a + b) / 2 for a, b in zip(values[::2], values[1::2], strict=True)]
            medians.append(statistics.median(values))
            cells.append(machine.spread(values))
        table.add_row(what, *cells, f"{medians[0] / medians[1]:.1f}x")
    costs = runs[0].costs
    operations = [costs.update(frozen)[1] for frozen in (False, True)]
    table.add_row("operations of an update", *(f"{n / 1e9:.2f}G" for n in operations), f"{operations[0] / operations[1]:.1f}x")
    table.add_row("bytes per step", *(f"{run.replay.bytes_per_step:,}" for run in runs), "")
    console.print(table)
    console.print(f"{machine.name(where)}", highlight=False)
    console.print(machine.ceilings(machine.rates(where), machine.bandwidth(where)), highlight=False)
    console.print(f"frozen: {frozen} steps, {copies} copies each, in {freezing:.2f} s", highlight=False)
    for run in runs:
        run.close()
    if peer:
        assert isinstance(config.agent, SACConfig)
        crop = getattr(config.agent, "crop", shape[-1])
        tenths = statistics.quantiles(
            peer_updates(env, batch_size, crop, config.agent.embedding, config.agent.hidden, where), n=10
        )
        console.print(
            f"Stable-Baselines3 SAC, batch {batch_size}, its own sampling included: {1e3 * tenths[4]:.0f} ms an update "
            f"({1e3 * tenths[0]:.0f} to {1e3 * tenths[-1]:.0f}), the actor's in each",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    tyro.cli(main)
