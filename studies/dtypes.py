"""What storing embeddings in fewer bytes does to an agent's losses, on real transitions of an agent that has learnt.

    python -m studies.dtypes                                                                # Rainbow, Alien, 20,000 steps
    python -m studies.dtypes --env dmc/cartpole-swingup --steps 3000 --batch-size 32        # CURL

It trains an agent on images, then computes the losses of the same transitions on embeddings as they are, and as each dtype
gives them back. The grids of the integers are made from another sample of the replay.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Agent
from seer_rl.replay.codec import DTYPES, EXAMPLES, Codec
from seer_rl.replay.replay import Batch
from seer_rl.training import loop
from seer_rl.training.config import EvalConfig, SeerConfig
from seer_rl.training.presets import configure
from seer_rl.training.run import Run

CHUNK = 250  # images embedded at once


def embed(agent: Agent, obs: torch.Tensor) -> torch.Tensor:
    """Embeddings of images as the agent acts on them."""
    with torch.no_grad():
        return torch.cat([agent.lower(center_crop(images, agent.obs_shape[1:])) for images in torch.split(obs, CHUNK)])


def losses(agent: Agent, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each transition [B], without the noise of exploration; and the gradient of their mean above the seam, one vector."""
    agent.generator.manual_seed(0)
    agent.zero_grad(set_to_none=True)
    found = agent.errors(batch).abs()
    found.mean().backward()  # type: ignore[no-untyped-call]
    return found.detach(), torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None])


def main(env: str = "atari/alien", steps: int = 20_000, batch_size: int | None = None, seed: int = 7) -> None:
    """Print the table.

    Args:
        env: Environment.
        steps: Of the training on images.
        batch_size: Of its updates. None: the agent's.
        seed: Of everything.
    """
    config = configure(env)
    agent_config = replace(config.agent, batch_size=batch_size or config.agent.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            replace(config, steps=steps, seed=seed, agent=agent_config, seer=SeerConfig(None), eval=EvalConfig(steps, 1),
                    run_dir=Path(folder) / "run")
        )  # fmt: skip
        begun = time.perf_counter()
        loop.train(run)
    print(f"{steps:,} steps on images: {time.perf_counter() - begun:.0f} s")
    agent = run.agent.eval()
    batch = run.replay.sample(EXAMPLES)
    examples = embed(agent, run.replay.sample(EXAMPLES).obs)
    z, next_z = embed(agent, batch.obs), embed(agent, batch.next_obs)
    discrete = not batch.action.is_floating_point()

    table = Table(title=f"{agent.name}, {env}: losses of {EXAMPLES:,} transitions by how embeddings are stored")
    columns = ("mean error, of a number's spread", "clipped", "mean loss", "a loss's mean change", "cosine of gradients",
               "same greedy action" if discrete else "an action's mean change")  # fmt: skip
    for i, column in enumerate(("dtype", *columns)):
        table.add_column(column, justify="right" if i else "left")
    exact, gradient = losses(agent, replace(batch, obs=z, next_obs=next_z))
    policy = agent.policy(z).detach()
    for kind in DTYPES:
        codec = Codec.fit(kind, examples)
        stored, next_stored = codec.decode(codec.encode(z)), codec.decode(codec.encode(next_z))
        found, its_gradient = losses(agent, replace(batch, obs=stored, next_obs=next_stored))
        its_policy = agent.policy(stored).detach()
        same = (its_policy.argmax(1) == policy.argmax(1)).float().mean() if discrete else (its_policy - policy).abs().mean()
        table.add_row(
            kind,
            f"{float((stored - z).abs().mean() / z.std(dim=0).mean()):.2%}",
            f"{codec.clipped / codec.written:.3%}" if codec.written else "",
            f"{float(found.mean()):.5f}",
            f"{float((found - exact).abs().mean() / exact.mean()):.2%}",
            f"{float(torch.nn.functional.cosine_similarity(gradient, its_gradient, dim=0)):.5f}",
            f"{float(same):.2%}" if discrete else f"{float(same):.5f}",
        )
    console = Console(width=130)
    console.print(table)
    console.print(machine.name(), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    tyro.cli(main)
