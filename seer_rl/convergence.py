"""When has an encoder converged? Signals that cost almost nothing, and the rule that reads them.

Every `EVERY` agent steps a batch of stored transitions is encoded twice: by the encoder as it is, and as it was at the
measurement before. The two say what a freeze at that earlier moment would have cost by now: how far embeddings have moved, how
often the heads would act otherwise on the older ones, by how much their error would be larger.
"""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Agent
from seer_rl.replay.replay import Batch, Replay

EVERY = 2_500  # agent steps between measurements
SAMPLES = 256  # transitions of a measurement, and observations of each of the stretches that are compared
ENCODED = 8 * SAMPLES  # observations that a measurement sends through an encoder
GAMES = 10  # the latest training games, whose scores are compared with a random player's

# The rule's numbers, the same for all games and tasks (docs/beyond.md says where they are from).
IN_A_ROW = 2  # measurements
MIN_CKA = 0.99  # the least CKA
MIN_AGREEMENT = 0.7  # the least agreement: heads that look at the embeddings, and hardly notice that they are older
NOVELTY = 2 / 3, 3 / 2  # novelty: neither new places, nor stuck in one
MIN_PROGRESS = 0.75  # the least progress


@dataclass(frozen=True)
class Signals:
    """What was measured at `step`, against the measurement before unless said otherwise."""

    step: int
    cka: float  # linear CKA of the embeddings
    drift: float  # their distance, relative to their spread (the reference distance of Egeria: Wang et al., 2023)
    travel: float  # the weights' distance, relative to their norm (in place of the gradients of AutoFreeze: Liu et al., 2021)
    moved: float  # 1 - linear CKA with the encoder that the run began with
    agreement: float  # of the current heads' greedy actions on both embeddings, corrected for chance (`agreement`)
    error: float  # temporal difference error of the current heads on the older embeddings, over that on the current ones
    novelty: float  # how far from what was known before is what was met since, compared with a stretch earlier (`novelty`)
    progress: float  # probability that one of the latest games scored more than a random player's (`progress`)


class ConvergenceMonitor:
    """Measures an agent's encoder from time to time. Its training is not disturbed: random numbers are as if it never had."""

    def __init__(self, agent: Agent) -> None:
        self.initial = _weights(agent.lower)
        self.reference = self.initial
        self.history: list[Signals] = []

    @torch.no_grad()
    def measure(self, agent: Agent, replay: Replay, step: int, scored: float = 0.0) -> Signals:
        """Measure, keep it in `history`, and take the encoder of now for the next time's reference. scored: the progress."""
        states = agent.generator.get_state(), replay.rng.bit_generator.state
        agent.eval()
        device = next(agent.lower.parameters()).device
        batch = replay.sample(SAMPLES).to(device)
        since = max(1, min(EVERY, (replay.size - replay.stack) // 3))  # records of each stretch
        ages = (np.linspace(i * since, (i + 1) * since - 1, SAMPLES).round().astype(np.int64) for i in range(3))
        met = (replay.aged(age).to(device) for age in ages)
        now, after, *stretches = (_embed(agent.lower, agent, obs) for obs in (batch.obs, batch.next_obs, *met))
        older, first = copy.deepcopy(agent.lower), copy.deepcopy(agent.lower)
        older.load_state_dict(self.reference)
        first.load_state_dict(self.initial)
        then, then_after = _embed(older, agent, batch.obs), _embed(older, agent, batch.next_obs)
        current, z, z_then = _weights(agent.lower), now.flatten(1), then.flatten(1)
        errors = [_errors(agent, replace(batch, obs=o, next_obs=n)) for o, n in ((now, after), (then, then_after))]
        signals = Signals(
            step,
            cka=linear_cka(z, z_then),
            drift=float((z - z_then).norm() / (z_then - z_then.mean(0)).norm().clamp(min=1e-12)),
            travel=_distance(current, self.reference),
            moved=1 - linear_cka(z, _embed(first, agent, batch.obs).flatten(1)),
            agreement=agreement(*(_actions(agent.policy(obs), batch.action.is_floating_point()) for obs in (now, then))),
            error=float(errors[1] / errors[0].clamp(min=1e-12)),
            novelty=novelty(*(z.flatten(1) for z in stretches)),
            progress=scored,
        )
        agent.train()
        agent.generator.set_state(states[0])
        replay.rng.bit_generator.state = states[1]
        self.reference = current
        self.history.append(signals)
        return signals

    def get_state(self) -> dict[str, Any]:
        """Everything, as plain values and tensors."""
        return {"initial": self.initial, "reference": self.reference, "history": [asdict(signals) for signals in self.history]}

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        self.initial, self.reference = (
            {name: torch.from_numpy(np.array(value)) for name, value in state[which].items()}
            for which in ("initial", "reference")
        )
        self.history = [Signals(**signals) for signals in state["history"]]


def novelty(new: torch.Tensor, known: torch.Tensor, older: torch.Tensor) -> float:
    """Mean distance of new to the nearest of known, over that of known to the nearest of older: [n, d] of equal stretches.

    About 1 where what is met does not change, however alike neighbours in time are; 1 where all is the same.
    """
    now, before = torch.cdist(new, known).amin(1).mean(), torch.cdist(known, older).amin(1).mean()
    return float(now / before) if before > 0 else (1.0 if now == 0 else torch.inf)


def progress(scores: Sequence[float], random: Sequence[float]) -> float:
    """Probability that one of `scores` is above one of a random player's, ties counting half (Mann and Whitney); 0 of none.

    0.5 for a player like the random one.
    """
    if not scores or not random:
        return 0.0
    a, b = np.array(scores)[:, None], np.array(random)
    return float(np.mean((a > b) + 0.5 * (a == b)))


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """1 - mean |a_i - b_i| / mean |a_i - b_j| of two policies' actions [B, A] in the same states: 1 the same, 0 as by chance.

    Of one-hot actions this is Cohen's kappa. Two policies that never look at the state agree by chance alone: 0.
    """
    by_chance = torch.cdist(a, b, p=1).mean()
    return float(1 - (a - b).abs().sum(1).mean() / by_chance) if by_chance > 0 else 0.0


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    squares = [((a[name] - b[name].to(a[name].device)).square().sum(), b[name].square().sum()) for name in a]
    return float((sum(float(one) for one, _ in squares) / max(sum(float(other) for _, other in squares), 1e-24)) ** 0.5)


def _embed(lower: nn.Module, agent: Agent, obs: torch.Tensor) -> torch.Tensor:
    """What `lower` makes of images as the agent acts on them, without augmentation."""
    # in eight parts, or this would be what takes most memory in a run
    z: list[torch.Tensor] = [lower(center_crop(some, agent.obs_shape[-1])) for some in obs.chunk(8)]
    return torch.cat(z)


def _errors(agent: Agent, batch: Batch) -> torch.Tensor:
    """The mean error of a batch of embeddings; the same random numbers every time."""
    agent.generator.manual_seed(0)
    return agent.errors(batch).abs().mean()


def _actions(policy: torch.Tensor, continuous: bool) -> torch.Tensor:
    """Actions [B, A] of what `Agent.policy` gave: those, or the one-hot code of the largest expected return."""
    return policy if continuous else F.one_hot(policy.argmax(1), policy.shape[1]).float()


def converged(history: Sequence[Signals], earliest: int, latest: int) -> bool:
    """Whether to freeze now, at the last of the measurements.

    Between `earliest` and `latest`: where in the last `IN_A_ROW` measurements embeddings kept their geometry and the heads
    acted alike on older ones. An encoder that has learnt nothing does not change either; its agent plays like a random one.
    One that has not explored will still change: new places raise novelty, and being stuck in one lowers it.
    """
    recent = history[-IN_A_ROW:]
    still = [s.cka >= MIN_CKA and s.agreement >= MIN_AGREEMENT for s in recent]
    explored = [s.progress >= MIN_PROGRESS and NOVELTY[0] <= s.novelty <= NOVELTY[1] for s in recent]
    step = history[-1].step
    return step >= latest or (step >= earliest and len(recent) == IN_A_ROW and all(still) and all(explored))


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centred kernel alignment of x [n, p] and y [n, q], between 0 and 1 (Kornblith et al., 2019, eq. 3 and 4).

    HSIC is estimated without bias (Song et al., 2012, eq. 5), so that independent layers score about 0 with few samples too,
    where the plain estimate would give sqrt(p q / ((n + p) (n + q))). Below 0 it is 0, and so it is where a layer is constant.
    Raises ValueError for fewer than 4 samples.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"similarity needs the same samples on both sides, 4 or more, not {len(x)} and {len(y)}")
    a, b = _centred(x), _centred(y)
    norms = _hsic(a, a) * _hsic(b, b)
    return float(min(max(_hsic(a, b) / norms**0.5, 0.0), 1.0)) if norms > 0 else 0.0


def _hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion with linear kernels K = x x^T and L = y y^T.

    Their diagonals are left out. Samples may be tens of thousands, or units: the matrices are as small as the fewer of them.
    """
    n = len(x)
    diagonal_k, diagonal_l = x.square().sum(dim=1), y.square().sum(dim=1)
    rows_k, rows_l = x @ x.sum(dim=0) - diagonal_k, y @ y.sum(dim=0) - diagonal_l  # sums of rows without it
    products = (x @ x.T * (y @ y.T)).sum() if n < min(x.shape[1], y.shape[1]) else (x.T @ y).square().sum()
    trace = products - diagonal_k @ diagonal_l
    sums = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return float((trace + sums - 2 / (n - 2) * (rows_k @ rows_l)) / (n * (n - 3)))


def _centred(x: torch.Tensor) -> torch.Tensor:
    return x.double() - x.double().mean(dim=0)
