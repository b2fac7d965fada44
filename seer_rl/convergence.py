"""Tell when an encoder has converged: measure signals that cost almost nothing, and apply a rule to them.

Every `EVERY` agent steps, a batch of stored transitions is encoded twice: by the encoder as it is, and by the encoder as it was
at the measurement before. Comparing the two says what a freeze at that earlier time would cost now: how far the embeddings have
moved since, how often the heads would choose other actions on the older ones, and how much larger their error would be.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from seer_rl.agents.augment import center_crop
from seer_rl.agents.base import Agent
from seer_rl.replay.observation import ONLY, Obs, each, keyed, vectors_in
from seer_rl.replay.replay import Batch, Replay

EVERY = 2_500  # agent steps between measurements
SAMPLES = 256  # transitions of a measurement; also the observations of each stretch of time that novelty compares
ENCODED = 8 * SAMPLES  # observations that a measurement sends through an encoder
GAMES = 10  # progress compares the scores of so many latest training games with a random player's

# The numbers of the rule, the same for all games and tasks. docs/studies/signals.md says where they come from.
IN_A_ROW = 2  # measurements that must meet the rule
MIN_CKA = 0.99  # the least CKA: embeddings keep their geometry
MIN_AGREEMENT = 0.7  # the least agreement: the heads depend on the embeddings, and act alike on older ones
NOVELTY = 2 / 3, 3 / 2  # the least and the largest novelty: the agent neither meets new places nor is stuck in one
MIN_PROGRESS = 0.75  # the least progress: the agent plays better than a random player


@dataclass(frozen=True)
class Signals:
    """Hold what was measured at agent step `step`, compared with the measurement before. No signal has a unit."""

    step: int
    cka: float  # linear CKA of the current and the older encoder's embeddings, from 0 to 1
    drift: float  # distance of these embeddings, divided by their spread (the reference distance of Egeria: Wang et al., 2023)
    travel: float  # distance of the encoders' weights, divided by their norm (AutoFreeze takes gradients: Liu et al., 2021)
    moved: float  # 1 - linear CKA with the embeddings of the encoder that the run began with
    agreement: float  # how far the current heads act alike on both embeddings, corrected for chance: see `agreement`
    error: float  # temporal difference error of the current heads on the older embeddings, divided by that on the current ones
    novelty: float  # how new the latest observations are, compared with those of a stretch of time earlier: see `novelty`
    progress: float  # probability that a recent game scored more than a random player's: see `progress`


class ConvergenceMonitor:
    """Measure an agent's encoder from time to time. Training goes on as without it: its random numbers stay the same."""

    def __init__(self, agent: Agent) -> None:
        """Take the encoder of `agent` as the one that the run begins with."""
        self.initial = _weights(agent.lower)
        self.reference = self.initial
        self.history: list[Signals] = []

    @torch.no_grad()
    def measure(self, agent: Agent, replay: Replay, step: int, scored: float = 0.0) -> Signals:
        """Measure at agent step `step`; append the signals to `history` and return them.

        The encoder of now becomes the older one of the next measurement. scored: the progress, see `progress`.
        """
        states = agent.generator.get_state(), replay.rng.bit_generator.state
        agent.eval()
        device = next(agent.lower.parameters()).device
        batch = replay.sample(SAMPLES).to(device)
        since = max(1, min(EVERY, replay.oldest_age // 3))  # records in each stretch of time
        ages = (np.linspace(i * since, (i + 1) * since - 1, SAMPLES).round().astype(np.int64) for i in range(3))
        met = (each(lambda x: x.to(device), replay.aged(age)) for age in ages)
        now, after, *stretches = (_embed(agent.lower, agent, obs) for obs in (batch.obs, batch.next_obs, *met))
        older, first = copy.deepcopy(agent.lower), copy.deepcopy(agent.lower)
        older.load_state_dict(self.reference)
        first.load_state_dict(self.initial)
        then, then_after = _embed(older, agent, batch.obs), _embed(older, agent, batch.next_obs)
        current, z, z_then = _weights(agent.lower), _flat(agent, now), _flat(agent, then)
        errors = [_errors(agent, replace(batch, obs=o, next_obs=n)) for o, n in ((now, after), (then, then_after))]
        signals = Signals(
            step,
            cka=linear_cka(z, z_then),
            drift=float((z - z_then).norm() / (z_then - z_then.mean(0)).norm().clamp(min=1e-12)),
            travel=_distance(current, self.reference),
            moved=1 - linear_cka(z, _flat(agent, _embed(first, agent, batch.obs))),
            agreement=agreement(*(_actions(agent.policy(obs), batch.action.is_floating_point()) for obs in (now, then))),
            error=float(errors[1] / errors[0].clamp(min=1e-12)),
            novelty=novelty(*(_flat(agent, z) for z in stretches)),
            progress=scored,
        )
        agent.train()
        agent.generator.set_state(states[0])
        replay.rng.bit_generator.state = states[1]
        self.reference = current
        self.history.append(signals)
        return signals

    def get_state(self) -> dict[str, Any]:
        """Return the whole state, as plain values and tensors."""
        return {"initial": self.initial, "reference": self.reference, "history": [asdict(signals) for signals in self.history]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what `get_state` returned; its tensors may have become numpy arrays."""
        self.initial, self.reference = (
            {name: torch.from_numpy(np.array(value)) for name, value in state[which].items()}
            for which in ("initial", "reference")
        )
        self.history = [Signals(**signals) for signals in state["history"]]


def novelty(new: torch.Tensor, known: torch.Tensor, older: torch.Tensor) -> float:
    """Return how new the latest observations are: a ratio of two mean distances between nearest neighbours.

    new, known, older: embeddings [n, d] from three stretches of time of equal length, the latest first. The distance from each
    of `new` to the nearest of `known` is divided by the distance from each of `known` to the nearest of `older`. The ratio is
    about 1 where the agent goes on meeting the same kind of thing, however alike neighbours in time are. It is 1 where all are
    the same.
    """
    now, before = torch.cdist(new, known).amin(1).mean(), torch.cdist(known, older).amin(1).mean()
    return float(now / before) if before > 0 else (1.0 if now == 0 else torch.inf)


def progress(scores: Sequence[float], random: Sequence[float]) -> float:
    """Return the probability that one of `scores` is above one of a random player's; ties count half (Mann and Whitney, 1947).

    It is 0.5 for a player like the random one, and 0 where either has no scores.
    """
    if not scores or not random:
        return 0.0
    a, b = np.array(scores)[:, None], np.array(random)
    return float(np.mean((a > b) + 0.5 * (a == b)))


def agreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return how far two policies' actions `a`, `b` [B, A] in the same states agree: 1 if equal, 0 if no more than by chance.

    It is 1 - mean |a_i - b_i| / mean |a_i - b_j|; for one-hot actions this is Cohen's kappa. Two policies that do not depend on
    the state agree by chance only, which gives 0.
    """
    by_chance = torch.cdist(a, b, p=1).mean()
    return float(1 - (a - b).abs().sum(1).mean() / by_chance) if by_chance > 0 else 0.0


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    squares = [((a[name] - b[name].to(a[name].device)).square().sum(), b[name].square().sum()) for name in a]
    return float((sum(float(one) for one, _ in squares) / max(sum(float(other) for _, other in squares), 1e-24)) ** 0.5)


def _embed(lower: nn.Module, agent: Agent, obs: Obs) -> Obs:
    """Encode the images in `obs` as the agent acts on them, without augmentation; vectors stay as they are."""
    shapes = agent.obs_shape
    sizes = {key: shape[1:] for key, shape in shapes.items()} if isinstance(shapes, Mapping) else {ONLY: shapes[1:]}
    parts = {key: x.chunk(8) for key, x in keyed(obs).items()}  # at once they would need more memory than all else in a run
    z: list[dict[str, torch.Tensor]] = []
    for i in range(len(next(iter(parts.values())))):
        some = {key: x[i] if x[i].dim() == 2 else center_crop(x[i], sizes[key]) for key, x in parts.items()}
        z.append(some | lower(some) if isinstance(obs, dict) else {ONLY: lower(some[ONLY])})
    whole = {key: torch.cat([one[key] for one in z]) for key in z[0]}
    return whole if isinstance(obs, dict) else whole[ONLY]


def _flat(agent: Agent, z: Obs) -> torch.Tensor:
    """Return the embeddings of a batch as vectors [B, n], those of several images one behind the other."""
    vectors = vectors_in(agent.obs_shape)
    return torch.cat([x.flatten(1) for key, x in keyed(z).items() if key not in vectors], dim=1)


def _errors(agent: Agent, batch: Batch) -> torch.Tensor:
    """Return the mean error on a batch of embeddings, with the same random numbers every time."""
    agent.generator.manual_seed(0)
    return agent.errors(batch).abs().mean()


def _actions(policy: torch.Tensor, continuous: bool) -> torch.Tensor:
    """Return actions [B, A] from what `Agent.policy` gave: mean actions as they are, expected returns as a one-hot choice."""
    return policy if continuous else F.one_hot(policy.argmax(1), policy.shape[1]).float()


def converged(history: Sequence[Signals], earliest: int, latest: int) -> bool:
    """Decide whether to freeze at the latest of the measurements in `history`, of which there must be one.

    The answer is yes from agent step `latest` on. Between `earliest` and `latest` it is yes if the last `IN_A_ROW` measurements
    all meet four conditions. The embeddings kept their geometry (cka), and the heads acted alike on older ones (agreement). The
    agent plays better than a random one (progress): an encoder that has learnt nothing does not change either. The agent is not
    exploring (novelty): meeting new places, which will change the encoder, raises novelty, and being stuck in one lowers it.
    """
    recent = history[-IN_A_ROW:]
    still = [s.cka >= MIN_CKA and s.agreement >= MIN_AGREEMENT for s in recent]
    explored = [s.progress >= MIN_PROGRESS and NOVELTY[0] <= s.novelty <= NOVELTY[1] for s in recent]
    step = history[-1].step
    return step >= latest or (step >= earliest and len(recent) == IN_A_ROW and all(still) and all(explored))


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the linear centred kernel alignment of x [n, p] and y [n, q], from 0 to 1 (Kornblith et al., 2019, eq. 3 and 4).

    HSIC is estimated without bias (Song et al., 2012, eq. 5). So independent layers score about 0 even with few samples, where
    the plain estimate would give sqrt(p q / ((n + p) (n + q))). Estimates below 0 count as 0; a constant layer scores 0, too.
    Raises ValueError for fewer than 4 samples, or different numbers of them.
    """
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"similarity needs the same samples on both sides, 4 or more, not {len(x)} and {len(y)}")
    a, b = centred(x), centred(y)
    norms = _hsic(a, a) * _hsic(b, b)
    return float(min(max(_hsic(a, b) / norms**0.5, 0.0), 1.0)) if norms > 0 else 0.0


def _hsic(x: torch.Tensor, y: torch.Tensor) -> float:
    """Estimate the Hilbert-Schmidt independence criterion without bias, with linear kernels K = x x^T and L = y y^T.

    The diagonals of the kernels are left out. There may be tens of thousands of samples, or of units: the matrices that are
    computed are as small as the smaller of the two numbers.
    """
    n = len(x)
    diagonal_k, diagonal_l = x.square().sum(dim=1), y.square().sum(dim=1)
    rows_k, rows_l = x @ x.sum(dim=0) - diagonal_k, y @ y.sum(dim=0) - diagonal_l  # sums of rows, without the diagonal
    products = (x @ x.T * (y @ y.T)).sum() if n < min(x.shape[1], y.shape[1]) else (x.T @ y).square().sum()
    trace = products - diagonal_k @ diagonal_l
    sums = rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2))
    return float((trace + sums - 2 / (n - 2) * (rows_k @ rows_l)) / (n * (n - 3)))


def centred(x: torch.Tensor) -> torch.Tensor:
    """Give x [n, p] in float64, each column less its mean."""
    return x.double() - x.double().mean(dim=0)
