"""SEER in TorchRL: what must hold before, at and after the freeze, with the library's own losses, buffers and collectors."""

import atexit
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
import torchrl
from tensordict.nn import NormalParamExtractor, TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.data import (
    LazyMemmapStorage,
    LazyTensorStorage,
    ListStorage,
    ReplayBuffer,
    TensorDictMaxValueWriter,
    TensorDictPrioritizedReplayBuffer,
    TensorDictReplayBuffer,
    TensorStorage,
)
from torchrl.data.replay_buffers import SamplerWithoutReplacement
from torchrl.data.replay_buffers.storages import CompressedListStorage, LazyStackStorage
from torchrl.envs import (
    CatFrames,
    Compose,
    DoubleToFloat,
    GymWrapper,
    MultiStepTransform,
    RenameTransform,
    SerialEnv,
    ToTensorImage,
    TransformedEnv,
)
from torchrl.modules import EGreedyModule, ProbabilisticActor, QValueActor, TanhDelta, TanhNormal, ValueOperator
from torchrl.objectives import DQNLoss, SACLoss, SoftUpdate, TD3Loss

from seer_rl import envs
from seer_rl.envs.dmc import ControlConfig
from seer_rl.integrations.torchrl import Seam, Seer
from seer_rl.integrations.torchrl.networks import Lower

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of the library, about a class of its own, when this is imported
    from torchrl.collectors import Collector

SHAPES = {"dqn": (4, 84, 84), "sac": (9, 44, 44), "td3": (9, 44, 44), "shared": (9, 44, 44)}
KINDS = list(SHAPES)


def env(kind: str, count: int = 1) -> Any:
    """Real environments: a game, or a task that is drawn; episodes are short, and end by a time limit."""

    def one() -> Any:
        if kind == "dqn":
            made = gym.wrappers.TimeLimit(envs.make("atari/pong", training=True), 25 if count == 1 else 5)
        else:
            task = envs.make("dmc/cartpole-swingup", training=True, settings=ControlConfig(size=44))
            made = gym.wrappers.TimeLimit(task, 20)
        return TransformedEnv(GymWrapper(made), RenameTransform(["observation"], ["pixels"]))

    return one() if count == 1 else SerialEnv(count, one)


def cnn(kind: str) -> nn.Sequential:
    """Convolutions that take floats only."""
    channels = SHAPES[kind][0]
    sizes = [(channels, 8, 8, 4), (8, 8, 4, 2)] if kind == "dqn" else [(channels, 8, 4, 4), (8, 8, 3, 2)]
    layers = [layer for i, o, k, s in sizes for layer in (nn.Conv2d(i, o, k, s), nn.ReLU())]
    return nn.Sequential(*layers, nn.Flatten(-3))


class Critic(nn.Module):
    """A value of an image and an action."""

    def __init__(self, seam: Seam) -> None:
        super().__init__()
        self.seam, self.head = seam, nn.Sequential(nn.Linear(seam.length + 1, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, pixels: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = self.head(torch.cat([self.seam(pixels), action], -1))
        return value


class Run:
    """A small training in the library's own style."""

    def __init__(self, kind: str, buffer: Any = None, count: int = 1, encoder: Any = None, seed: int = 1) -> None:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the library's prioritized sampler draws from it
        self.kind, self.env, shape = kind, env(kind, count), SHAPES[kind]
        make = encoder or (lambda: Seam(cnn(kind), shape))
        self.loss: Any
        if kind == "dqn":
            seam = make()
            head = nn.Sequential(nn.Linear(getattr(seam, "length", 648), 16), nn.ReLU(), nn.Linear(16, 6))
            spec = self.env.action_spec if count == 1 else self.env.full_action_spec_unbatched["action"]
            self.policy: Any = QValueActor(nn.Sequential(seam, head), in_keys=["pixels"], spec=spec)
            self.loss = DQNLoss(self.policy, delay_value=True, double_dqn=True)
            self.acting: Any = TensorDictSequential(self.policy, EGreedyModule(spec=spec, eps_init=0.5, eps_end=0.5))
        else:
            seam = make()
            other = seam if kind == "shared" else make()
            outputs = 1 if kind == "td3" else 2
            layers: list[nn.Module] = [seam, nn.Linear(seam.length, 16), nn.ReLU(), nn.Linear(16, outputs)]
            keys, distribution = (["param"], TanhDelta) if kind == "td3" else (["loc", "scale"], TanhNormal)
            if kind != "td3":
                layers.append(NormalParamExtractor())
            actor = ProbabilisticActor(
                TensorDictModule(nn.Sequential(*layers), in_keys=["pixels"], out_keys=keys),
                in_keys=keys, distribution_class=distribution, spec=self.env.action_spec,
            )  # fmt: skip
            critic = ValueOperator(Critic(other), in_keys=["pixels", "action"])
            self.policy = self.acting = actor
            if kind == "td3":
                self.loss = TD3Loss(actor, critic, action_spec=self.env.action_spec, delay_actor=True, delay_qvalue=True)
            else:
                self.loss = SACLoss(actor, critic, action_spec=self.env.action_spec, separate_losses=kind == "shared")
        self.loss.make_value_estimator(gamma=0.99)
        self.updater = SoftUpdate(self.loss, tau=0.3)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), 1e-3, weight_decay=0.01)
        self.buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(60), batch_size=8) if buffer is None else buffer

    def collect(self, steps: int, batch: int = 10, total: int | None = None, keep: Any = None) -> Any:
        """Let a collector write steps into the buffer; return the collector."""
        collector = Collector(
            self.env, self.acting, frames_per_batch=batch, total_frames=total or steps, auto_register_policy_transforms=True
        )
        for data in collector:
            self.buffer.extend(data.reshape(-1))
            if keep is not None:
                keep.append(data.reshape(-1).clone())
        return collector

    def update(self, times: int = 1) -> torch.Tensor:
        """Learn from the buffer; return the last loss."""
        for _ in range(times):
            batch = self.buffer.sample()
            losses = self.loss(batch)
            total: torch.Tensor = sum(x for key, x in losses.items() if key.startswith("loss"))
            self.optimizer.zero_grad(set_to_none=False)  # what is frozen must be passed over all the same
            total.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.updater.step()
            if isinstance(self.buffer, TensorDictPrioritizedReplayBuffer):
                self.buffer.update_tensordict_priority(batch)
        return total.detach()


def below(loss: Any) -> dict[str, torch.Tensor]:
    """Every weight below a seam, online and target, by its name in the loss's state."""
    return {key: x.clone() for key, x in loss.state_dict().items() if isinstance(x, torch.Tensor) and ".lower." in key}


def value(loss: Any, batch: Any) -> dict[str, float]:
    """The library's loss of a batch."""
    torch.manual_seed(3)
    return {key: float(x.detach()) for key, x in loss(batch.clone()).items() if key.startswith("loss")}


@pytest.mark.parametrize("kind", KINDS)
def test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves(kind: str) -> None:
    """Contract (a), (b), (c): the same rows, as images and as float32 embeddings; then a hundred updates."""
    run = Run(kind)
    seer = Seer(run.loss, run.buffer, 40)
    run.collect(40)
    assert not seer.frozen
    run.update(4)
    state = run.loss.state_dict()
    targets = {key: state[key] for key in below(run.loss) if key.startswith("target_")}
    behind = {key: x.clone() for key, x in targets.items()}
    assert any(not torch.equal(x, state[key.removeprefix("target_")]) for key, x in targets.items())
    for key, x in targets.items():  # as the freeze will do
        x.copy_(state[key.removeprefix("target_")])
    before = value(run.loss, run.buffer[torch.arange(40)])
    for key, x in targets.items():
        x.copy_(behind[key])
    assert seer.step()
    batch = run.buffer[torch.arange(40)]
    encoders = {"dqn": 1, "sac": 3, "td3": 3, "shared": 1}[kind]
    length = next(seam for seam in seer.lower.seams.values()).length
    assert batch["pixels"].shape == (40, encoders * length)
    after = value(run.loss, batch)
    assert after.keys() == before.keys()
    assert all(after[key] == pytest.approx(before[key], abs=1e-5) for key in before)
    frozen, state = below(run.loss), {key: x.clone() for key, x in run.loss.state_dict().items()}
    assert all(torch.equal(frozen[key], frozen[key.removeprefix("target_")]) for key in targets)
    run.update(100)
    assert all(torch.equal(x, frozen[key]) for key, x in below(run.loss).items())
    moved = {key for key, x in run.loss.state_dict().items() if not torch.equal(x, state[key])}
    assert any(key.startswith("target_") for key in moved)
    assert any(not key.startswith("target_") for key in moved)
    assert not seer.step()


def trees() -> None:
    """Let the library have its priority trees: where its wheel was built for another PyTorch, from the sources in the wheel."""
    from torchrl.data.replay_buffers.samplers import prioritized

    if prioritized.SumSegmentTreeFp32 is not None:
        return
    if shutil.which("ninja") is None or shutil.which("c++") is None:
        pytest.skip("TorchRL's compiled part does not fit PyTorch, and there is no compiler to make it here")
    from torch.utils import cpp_extension

    if "TORCH_EXTENSIONS_DIR" not in os.environ:  # in the user's cache, a build that was killed leaves a lock that all wait for
        os.environ["TORCH_EXTENSIONS_DIR"] = place = tempfile.mkdtemp()  # processes of these tests share it
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    sources = [str(Path(torchrl.__file__).parent / "csrc" / name) for name in ("pybind.cpp", "utils.cpp")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about compilers
        compiled = cpp_extension.load("_torchrl", sources, extra_cflags=["-O0"])
    sys.modules["_torchrl"] = compiled  # where a saved tree looks for its class
    for name in ("SumSegmentTreeFp32", "MinSegmentTreeFp32", "SumSegmentTreeFp64", "MinSegmentTreeFp64"):
        setattr(prioritized, name, getattr(compiled, name))


def made(storage: Any, prioritized: bool, **settings: Any) -> Any:
    """A buffer of the library's."""
    if prioritized:
        trees()
        return TensorDictPrioritizedReplayBuffer(alpha=0.7, beta=0.5, storage=storage, batch_size=8, **settings)
    return TensorDictReplayBuffer(storage=storage, batch_size=8, **settings)


STORAGES: dict[str, Callable[[Path], Any]] = {
    "tensor": lambda path: LazyTensorStorage(50),
    "memmap": lambda path: LazyMemmapStorage(50),
    "directory": lambda path: LazyMemmapStorage(50, scratch_dir=path / "memmap"),
    "list": lambda path: ListStorage(50),
    "compressed": lambda path: CompressedListStorage(50),
}


@pytest.mark.parametrize(
    ("storage", "count", "prioritized", "capacity"),
    [
        ("tensor", 1, True, None),
        ("tensor", 8, False, 50),
        ("memmap", 1, True, 70),
        ("directory", 1, False, 30),
        ("list", 8, True, None),
        ("compressed", 1, False, None),
    ],
)
def test_transitions_are_those_of_the_librarys_own_buffer(
    storage: str, count: int, prioritized: bool, capacity: int | None, tmp_path: Path
) -> None:
    """Contract (e), (f): what is stored, and with what priority, before and after the freeze; the rings have wrapped."""
    run = Run("dqn", made(STORAGES[storage](tmp_path), prioritized), count)
    seer = Seer(run.loss, run.buffer, 64, capacity=capacity)
    written: list[Any] = []
    run.collect(64, 16, keep=written)
    run.update(4)
    everything: Any = torch.cat(written)
    assert everything["next", "done"].any()
    theirs = made(STORAGES[storage](tmp_path / "theirs"), False)
    for data in written:
        theirs.extend(data)
    for key in ("pixels", ("next", "pixels"), "action", ("next", "reward"), ("next", "terminated"), ("next", "truncated")):
        assert torch.equal(run.buffer[torch.arange(50)][key], theirs[torch.arange(50)][key]), key
    tree: Any = run.buffer.sampler._sum_tree if prioritized else None
    priorities = [float(tree[(14 + i) % 50]) for i in range(50)] if prioritized else []
    assert seer.step()
    steps = seer.report["steps_after"]
    kept = min(50, steps)
    assert len(run.buffer) == kept
    if prioritized:
        assert len(set(priorities)) > 2
        assert [float(run.buffer.sampler._sum_tree[i]) for i in range(kept)] == priorities[-kept:]
    run.collect(32, 16, keep=written)
    everything = torch.cat(written)[-min(steps, kept + 32) :]
    rows = (torch.arange(len(everything)) + run.buffer.writer._cursor) % steps if kept + 32 > steps else torch.arange(kept + 32)
    stored = run.buffer[rows]
    for key in ("action", ("next", "reward"), ("next", "done"), ("next", "terminated"), ("next", "truncated")):
        assert torch.equal(stored[key], everything[key]), key
    with torch.no_grad():
        for key in ("pixels", ("next", "pixels")):
            expected = seam_of(run)(everything[key])
            torch.testing.assert_close(stored[key], expected, atol=1e-5, rtol=1e-5)
    run.update(3)
    assert run.buffer.sample()["index"].max() < steps


def seam_of(run: Run) -> Any:
    """The policy's seam."""
    return next(module for module in run.policy.modules() if isinstance(module, Seam))


def digest(batch: Any) -> list[float]:
    """Numbers that tell one batch from another."""
    keys = ("pixels", ("next", "pixels"), "action", ("next", "reward"), "index", "priority_weight")
    return [float(x.double().sum()) for key in keys if (x := batch.get(key, None)) is not None]


def go_on(run: Run) -> list[float]:
    """Draw a batch, learn, let the collector write, and learn again."""
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    drawn = digest(run.buffer.sample())
    loss = run.update(5)
    run.env.set_seed(5)
    run.collect(10)
    return [*drawn, float(loss), float(run.update(2)), float(len(run.buffer))]


SAVED = [("tensor", True, "dumps"), ("directory", True, "dumps"), ("memmap", False, "dumps"), ("tensor", True, "state"),
         ("list", False, "state")]  # fmt: skip


def resume(storage: str, prioritized: bool, how: str, path: Path) -> tuple[Run, Seer]:
    """Make everything anew, with other weights and the first capacity, and load what was saved."""
    run = Run("dqn", made(STORAGES[storage](path / "new"), prioritized), seed=9)
    seer = Seer(run.loss, run.buffer, 64, "uint8")
    saved = torch.load(path / "run.pt", weights_only=False)
    if how == "dumps":  # the order does not matter
        run.buffer.loads(path / "replay")
    run.loss.load_state_dict(saved["loss"])
    run.optimizer.load_state_dict(saved["optimizer"])
    if how == "state":
        run.buffer.load_state_dict(saved["replay"])
    return run, seer


def test_saved_and_loaded_in_another_process(tmp_path: Path) -> None:
    """Contract (d), (i): the same next batch and the same losses; the policy alone acts on images."""
    expected: list[Any] = []
    cases = SAVED
    for i, (storage, prioritized, how) in enumerate(cases):
        path = tmp_path / str(i)
        path.mkdir()
        run = Run("dqn", made(STORAGES[storage](path), prioritized))
        seer = Seer(run.loss, run.buffer, 64, "uint8")
        run.collect(64, 16)
        run.update(3)
        assert seer.step()
        run.update(3)
        run.collect(20)
        if how == "dumps":
            run.buffer.dumps(path / "replay")
        saved = {"loss": run.loss.state_dict(), "optimizer": run.optimizer.state_dict(), "policy": run.policy.state_dict()}
        torch.save(saved | ({} if how == "dumps" else {"replay": run.buffer.state_dict()}), path / "run.pt")
        frozen = float(sum(x.double().sum() for x in below(run.loss).values()))
        expected.append([*go_on(run), frozen])
    code = "from tests.integrations.test_torchrl import in_another_process; import sys; in_another_process(sys.argv[1])"
    alone = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout.splitlines()[-1]) == expected


def test_encoders_that_stay_are_read_for_their_sums_only(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("dqn")
    seer = Seer(run.loss, run.buffer, 64)
    run.collect(64, 16)
    run.update(3)
    assert seer.step()
    monkeypatch.setattr("seer_rl.integrations.torchrl.networks.checksum", pytest.fail)
    for _ in range(3):
        run.update(1)
        run.collect(10)
        assert not seer.step()


def test_embeddings_of_other_encoders_are_refused() -> None:
    run = Run("dqn")
    seer = Seer(run.loss, run.buffer, 64)
    run.collect(64, 16)
    run.update(3)
    assert seer.step()
    other = Run("dqn", seed=9)
    Seer(other.loss, other.buffer, 64)
    other.buffer.load_state_dict(run.buffer.state_dict())
    for use in (lambda: other.update(1), lambda: other.collect(10)):
        with pytest.raises(RuntimeError, match="other encoders made the embeddings"):
            use()
    other.loss.load_state_dict(run.loss.state_dict())
    other.update(1)
    other.collect(10)
    assert not seer.step()
    run.loss.load_state_dict(Run("dqn", seed=9).loss.state_dict())  # in the middle of a run
    with pytest.raises(RuntimeError, match="other encoders made the embeddings"):
        seer.step()


@pytest.mark.parametrize("storage", ["tensor", "memmap", "list", "stack"])
def test_reading_changes_nothing(storage: str, tmp_path: Path) -> None:
    """A reader of the whole buffer, or of one row of a list, may be handed the storage's own rows."""
    run = Run("dqn", made(LazyStackStorage(50) if storage == "stack" else STORAGES[storage](tmp_path), False))
    seer = Seer(run.loss, run.buffer, 50, "uint8", capacity=50)
    run.collect(50)
    run.update(2)
    assert seer.step()
    run.collect(10)
    expected = run.buffer[torch.arange(50)]["pixels"].clone()
    for _ in range(2):
        assert torch.equal(run.buffer[:]["pixels"], expected)
        assert torch.equal(run.buffer[3]["pixels"], expected[3])
        run.update()


def test_transforms_that_leave_images_alone_are_welcome() -> None:
    """Those that name no keys are tried at the freeze."""
    run = Run("dqn")
    run.buffer.append_transform(DoubleToFloat())
    run.buffer.append_transform(lambda data: data.set("twice", data["next", "reward"] * 2))
    seer = Seer(run.loss, run.buffer, 40)
    run.collect(40)
    run.update(2)
    assert seer.step()
    assert "twice" in run.buffer.sample()


def test_a_transform_that_waits_for_more_steps_hands_nothing_on() -> None:
    run = Run("dqn")
    seer = Seer(run.loss, run.buffer, 40)
    run.collect(40)
    run.update(2)
    assert seer.step()
    run.buffer.append_transform(MultiStepTransform(3, 0.9))
    written: list[Any] = []
    run.collect(10, batch=2, keep=written)
    assert len(run.buffer) == 40 + 10 - 3
    everything: Any = torch.cat(written)
    with torch.no_grad():
        expected = seam_of(run)(everything["pixels"])
    torch.testing.assert_close(run.buffer[torch.arange(40, 47)]["pixels"], expected[:7], atol=1e-5, rtol=1e-5)


def test_however_many_are_written_at_once_some_are_embedded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    embed = Lower.embed
    monkeypatch.setattr("seer_rl.integrations.torchrl.PASS", 4)

    def counted(self: Lower, images: torch.Tensor, places: Any) -> torch.Tensor:
        seen.append(len(images))
        return embed(self, images, places)

    monkeypatch.setattr(Lower, "embed", counted)
    run = Run("dqn")
    seer = Seer(run.loss, run.buffer, 40)
    run.collect(40)
    run.update(2)
    assert seer.step()
    seen.clear()
    written: list[Any] = []
    run.collect(10, batch=10, keep=written)
    assert max(seen) == 4
    with torch.no_grad():
        expected = seam_of(run)(torch.cat([written[0]["pixels"], written[0]["next", "pixels"]]))
    found = torch.cat([run.buffer[torch.arange(40, 50)][key] for key in ("pixels", ("next", "pixels"))])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_dropped_rows_priority_is_nobodys() -> None:
    """Where the step of the highest priority finds no room, the buffer is still drawn from, written to and saved."""
    run = Run("dqn", made(LazyTensorStorage(50), True))
    seer = Seer(run.loss, run.buffer, 50, capacity=20)
    run.collect(50)
    run.update(2)
    run.buffer.update_priority(torch.tensor([0]), torch.tensor([1000.0]))
    assert seer.step()
    run.collect(10)
    run.update(2)
    run.buffer.sampler.state_dict()
    with tempfile.TemporaryDirectory() as place:
        run.buffer.dumps(place)


def test_a_load_that_is_refused_leaves_the_buffer(tmp_path: Path) -> None:
    run = Run("dqn", made(LazyTensorStorage(50), False))
    seer = Seer(run.loss, run.buffer, 40, capacity=60)
    run.collect(40)
    run.update(2)
    run.buffer.dumps(tmp_path / "before")
    assert seer.step()
    run.buffer.dumps(tmp_path / "after")
    expected = run.buffer[torch.arange(40)]["pixels"].clone()
    with pytest.raises(RuntimeError, match="frozen, and the saved one is not"):
        run.buffer.loads(tmp_path / "before")
    assert torch.equal(run.buffer[torch.arange(40)]["pixels"], expected)
    rows = run.buffer.storage._storage[:40].clone()
    fixed = Run("dqn", made(TensorStorage(rows), False))
    Seer(fixed.loss, fixed.buffer, 40)
    with pytest.raises(ValueError, match="a TensorStorage has its size for good, and 60 rows were saved"):
        fixed.buffer.loads(tmp_path / "after")


def in_another_process(directory: str) -> None:
    """Go on with everything that was saved, and print what comes out."""
    torch.set_num_threads(1)
    trees()
    found = []
    for i, case in enumerate(SAVED):
        path = Path(directory) / str(i)
        if i == 0:
            run = Run("dqn", seed=9)
            run.policy.load_state_dict(torch.load(path / "run.pt", weights_only=False)["policy"])
            assert run.env.rollout(3, run.policy)["action"].shape == (3, 6)
        run, seer = resume(*case, path)
        assert seer.frozen
        numbers = go_on(run)
        assert all(x.grad is None for key, x in run.loss.named_parameters() if ".lower." in key)
        found.append([*numbers, float(sum(x.double().sum() for x in below(run.loss).values()))])
    print(json.dumps(found))


class Probe(Lower):
    """Watches memory while the freeze goes on."""

    most = last = 0

    @staticmethod
    def watch() -> int:
        """Count bytes."""
        return 0

    def embed(self, images: torch.Tensor, places: Any) -> torch.Tensor:
        made = super().embed(images, places)
        Probe.last = Probe.watch()
        Probe.most = max(Probe.most, Probe.last)
        return made


@pytest.mark.parametrize("storage", ["tensor", "memmap", "directory", "list"])
def test_memory_is_that_of_the_images_and_of_one_keys_embeddings(storage: str, tmp_path: Path) -> None:
    """Contract (g): through the freeze, and afterwards; of files it is the disk's. In a process of its own."""
    code = "from tests.integrations.test_torchrl import weighed; import sys; weighed(*sys.argv[1:])"
    at_once = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}  # the C library gives freed tensors back as they are freed
    command = [sys.executable, "-c", code, storage, str(tmp_path)]
    done = subprocess.run(command, env=at_once, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def weighed(storage: str, directory: str) -> None:
    """Freeze a buffer, and look at memory, or at the disk, meanwhile."""
    torch.set_num_threads(1)
    rows, tmp_path, monkeypatch = 1500, Path(directory), pytest.MonkeyPatch()
    first = Run("dqn", made(LazyTensorStorage(100), False))  # what libraries load and allocate once
    first.collect(100, 50)
    seer = Seer(first.loss, first.buffer, 100, "uint8")
    first.update(2)
    assert seer.step()
    kinds: dict[str, Callable[[], Any]] = {
        "tensor": lambda: LazyTensorStorage(rows),
        "memmap": lambda: LazyMemmapStorage(rows),
        "directory": lambda: LazyMemmapStorage(rows, scratch_dir=tmp_path),
        "list": lambda: ListStorage(rows),
    }
    run = Run("dqn", made(kinds[storage](), False))
    written: list[Any] = []
    run.collect(50, 50, keep=written)
    for _ in range(rows // 50 - 1):
        run.buffer.extend(written[0].clone())
    process = psutil.Process()

    def on_disk() -> int:
        return sum(512 * file.stat().st_blocks for file in tmp_path.rglob("*") if file.is_file())

    monkeypatch.setattr("seer_rl.integrations.torchrl.Lower", Probe)
    monkeypatch.setattr(Probe, "watch", staticmethod(on_disk if storage == "directory" else lambda: process.memory_info().rss))
    monkeypatch.setattr(Probe, "most", 0)
    seer = Seer(run.loss, run.buffer, rows, "uint8")
    run.update(2)
    seer.lower.embed(written[0]["pixels"][:32], seer.lower.distinct())  # what PyTorch allocates once
    gc.collect()
    if storage != "list":
        gc.disable()  # what is dropped must be free at once
    try:
        before, Probe.most = Probe.watch(), 0
        assert seer.step()
    finally:
        gc.enable()
    images, embeddings = rows * 4 * 84 * 84, rows * seam_of(run).length  # of one key
    # A chunk, the grid's examples, the convolutions' own; of a list's small pieces the C library keeps some for itself.
    spare = {"directory": 1_000_000, "list": 60_000_000}.get(storage, 24_000_000)
    assert Probe.most <= before + embeddings + spare
    if storage != "list":
        assert (
            Probe.last <= before - images + 2 * embeddings + spare
        )  # the first key's images have gone before the last are read
        assert Probe.watch() <= before - 2 * images + 2 * embeddings + spare
    report = seer.report
    assert report["steps_after"] * report["bytes_after"] <= report["steps_before"] * report["bytes_before"]
    assert report["steps_after"] > 20 * rows
    found = run.buffer.storage.get(0)
    assert report["bytes_after"] == sum(x.numel() * x.dtype.itemsize for _, x in found.items(True, True))


def test_prefetched_batches_of_images_are_dropped() -> None:
    run = Run("dqn", TensorDictReplayBuffer(storage=LazyTensorStorage(60), batch_size=8, prefetch=3))
    seer = Seer(run.loss, run.buffer, 40, "uint4")
    run.collect(40)
    run.update(2)
    assert len(run.buffer._prefetch_queue) == 3
    assert seer.step()
    for _ in range(5):
        assert run.buffer.sample()["pixels"].shape == (8, 648)
    run.update(2)


def test_the_policy_goes_on_taking_images() -> None:
    """Contract (i): what it does at an image is the same before and after; and a collector may write into the buffer itself."""
    run = Run("dqn")
    seer = Seer(run.loss, run.buffer, 40, "uint8")
    run.collect(40)
    run.update(3)
    data = run.env.rollout(5, run.policy)
    assert seer.step()
    for step in data:
        assert torch.equal(run.policy(step.select("pixels"))["action_value"], step["action_value"])
    collector = Collector(
        run.env,
        run.acting,
        frames_per_batch=10,
        total_frames=20,
        replay_buffer=run.buffer,
        auto_register_policy_transforms=True,
    )
    for _ in collector:
        run.update()
    assert len(run.buffer) == 60
    with pytest.raises(RuntimeError, match="frozen already"):
        seer.freeze()
    with pytest.raises(ValueError, match="takes images"):
        run.buffer.extend(run.buffer.sample().exclude("index"))


def test_a_storage_that_was_given_its_tensors() -> None:
    run = Run("dqn")
    run.collect(40)
    rows = run.buffer.storage._storage[:40].clone()
    run.buffer = made(TensorStorage(rows), False)
    seer = Seer(run.loss, run.buffer, 10, capacity=50)
    run.update()
    written: list[Any] = []
    run.collect(10, keep=written)
    assert seer.step()
    assert len(run.buffer) == 40
    kept = torch.cat([rows[10:40]["pixels"], written[0]["pixels"]])
    torch.testing.assert_close(run.buffer[torch.arange(40)]["pixels"], seam_of(run)(kept).detach(), atol=1e-5, rtol=1e-5)
    run.collect(10)
    assert len(run.buffer) == 50


def test_a_larger_embedding_than_an_image_shrinks_the_buffer() -> None:
    shape = (4, 84, 84)
    wide = Seam(nn.Sequential(nn.Conv2d(4, 16, 8, 4), nn.Flatten(-3)), shape)  # 6,400 float32 numbers, 25,600 bytes
    more = Seam(nn.Sequential(nn.Conv2d(4, 32, 8, 4), nn.Flatten(-3)), shape)  # 51,200 bytes
    for seam, fits in ((wide, 66), (more, 33)):
        run = Run("dqn", encoder=lambda seam=seam: nn.Sequential(seam, nn.LazyLinear(648)))
        seer = Seer(run.loss, run.buffer, 40)
        run.collect(40)
        run.update()
        if fits < 40:
            with pytest.warns(UserWarning, match="shrinks from 60 to 33 steps, and its 7 oldest"):
                assert seer.step()
        else:
            assert seer.step()
        assert seer.report["steps_after"] == fits
        assert len(run.buffer) == min(40, fits)
        run.collect(10)
        run.update()


def seer_of(run: Run, **settings: Any) -> Seer:
    return Seer(run.loss, run.buffer, **{"freeze": 40, **settings})


def late(**changes: Any) -> None:
    """Freeze too early, or what has changed since."""
    run = Run("dqn", changes.pop("buffer", None))
    seer = seer_of(run, **changes.pop("settings", {}))
    if changes.pop("filled", True):
        run.collect(20)
        if changes.pop("trained", True):
            run.update()
    if "append" in changes:
        run.buffer.append_transform(changes["append"])
    seer.freeze()


def buffer(**settings: Any) -> Any:
    return TensorDictReplayBuffer(**{"storage": LazyTensorStorage(60), "batch_size": 8, **settings})


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: seer_of(Run("dqn"), freeze="auto"), "freeze is a number of steps, not 'auto'"),
        (lambda: seer_of(Run("dqn"), freeze=0), "would never have been trained"),
        (lambda: seer_of(Run("dqn"), collector=Run("dqn").collect(10)), "total_frames=10: it would never come"),
        (lambda: seer_of(Run("dqn"), dtype="uint7"), "dtype is one of float32"),
        (lambda: Seam(nn.Linear(4, 4), (4,)), "this module has none"),
        (lambda: Seam(nn.Sequential(nn.Conv2d(4, 4, 8), nn.BatchNorm2d(4)), (4, 84, 84)), "an encoder that stands still"),
        (lambda: Seam(nn.Sequential(nn.Conv2d(4, 4, 8), nn.Dropout2d()), (4, 84, 84)), "put dropout above the Seam"),
        (lambda: seer_of(Run("dqn", encoder=lambda: cnn("dqn"))), r"put Seam\(cnn, shape\) in the place of cnn"),
        (lambda: Seer(torch.compile(Run("dqn").loss), buffer(), 40), "not compiled"),
        (lambda: seer_of(Run("dqn", ReplayBuffer(storage=LazyTensorStorage(60), shared=True))), "of this process"),
        (lambda: seer_of(Run("dqn", buffer(sampler=SamplerWithoutReplacement()))), "not SamplerWithoutReplacement"),
        (lambda: seer_of(Run("dqn", buffer(writer=TensorDictMaxValueWriter()))), "TensorDictMaxValueWriter"),
        (lambda: seer_of(Run("dqn", buffer(storage=LazyTensorStorage(60, ndim=2)))), "ndim=1"),
        (lambda: seer_of(Run("dqn", buffer(transform=CatFrames(4, dim=-3, in_keys=["pixels"])))), "stack frames in the env"),
        (lambda: late(append=ToTensorImage(in_keys=[("next", "pixels")])), "ToTensorImage in the buffer works on images"),
        (
            lambda: late(append=Compose(Compose(ToTensorImage(in_keys=["pixels"])))),
            "ToTensorImage in the buffer works on images",
        ),
        (
            lambda: late(append=lambda data: data.set("pixels", data["pixels"] // 2)),
            "_CallableTransform in the buffer works on",
        ),
        (lambda: late(settings={"key": "observation"}), "under 'observation', and has None"),
        (lambda: late(filled=False), "empty buffer"),
        (lambda: late(trained=False), "has never been trained"),
        (lambda: late(settings={"capacity": 7}), "would hold 7 steps of .* less than a batch"),
    ],
)
def test_what_cannot_be_done_right_is_refused_in_a_sentence(build: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=says):
        build()


def test_a_saved_buffer_stays_where_its_own_files_are_trained_on(tmp_path: Path) -> None:
    """A storage whose scratch_dir is that of a saved buffer reads the saved files: the freeze leaves them there."""
    first = Run("dqn", made(LazyMemmapStorage(50, scratch_dir=tmp_path / "first"), False))
    first.collect(50)
    first.buffer.dumps(tmp_path / "saved")
    saved = {path: path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    run = Run("dqn", made(LazyMemmapStorage(50, scratch_dir=tmp_path / "saved" / "storage"), False))
    run.buffer.loads(tmp_path / "saved")
    assert Path(run.buffer.storage._storage["pixels"].filename) in saved
    for one, seer in ((run, seer_of(run)), (first, seer_of(first))):
        one.update()
        seer.freeze()
        one.update()
    assert {path: path.read_bytes() for path in saved} == saved
    assert not (tmp_path / "first" / "pixels.memmap").exists()  # its own have gone


@pytest.mark.parametrize("kind", ["directory", "link to nowhere"])
def test_what_lies_where_embeddings_would_be_written_is_not_written_over(kind: str, tmp_path: Path) -> None:
    run = Run("dqn", made(LazyMemmapStorage(50, scratch_dir=tmp_path / "rows"), False))
    seer = seer_of(run)
    run.collect(40)
    run.update()
    place = tmp_path / "rows" / "embeddings"
    if kind == "directory":
        place.mkdir()
        (place / "pixels.memmap").write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is there already, and embeddings would be written to it: move it away"):
        seer.freeze()
    run.update()
    assert not (tmp_path / "nowhere").exists()
    assert kind != "directory" or (place / "pixels.memmap").read_text() == "mine"


def test_a_refused_freeze_changes_nothing() -> None:
    run = Run("dqn")
    seer = seer_of(run, capacity=7)
    run.collect(40)
    run.update()
    state, rows = {key: x.clone() for key, x in run.loss.state_dict().items()}, run.buffer[torch.arange(40)].clone()
    with pytest.raises(ValueError, match="less than a batch"):
        seer.step()
    assert all(torch.equal(x, state[key]) for key, x in run.loss.state_dict().items())
    assert (run.buffer[torch.arange(40)] == rows).all()
    run.update()


def test_bytes_of_a_step_are_those_of_the_page() -> None:
    """docs/torchrl.md, "What it saves": NatureCNN, four frames of 84x84, and what the collector writes beside."""
    page = (Path(__file__).parents[2] / "docs" / "torchrl.md").read_text("utf-8")
    sizes = [(4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1)]
    counted: list[int] = []
    for dtype in ("float32", "uint8", "uint4"):
        nature = [layer for i, o, k, s in sizes for layer in (nn.Conv2d(i, o, k, s), nn.ReLU())]
        seam = Seam(nn.Sequential(*nature, nn.Flatten(-3)), (4, 84, 84))
        run = Run("dqn", encoder=lambda seam=seam: nn.Sequential(seam, nn.LazyLinear(648)))
        seer = seer_of(run, freeze=10, dtype=dtype)
        run.collect(10)
        run.update()
        assert seer.step()
        counted = [seer.report["bytes_before"], *counted[1:], seer.report["bytes_after"]]
    floats = counted[0] + 2 * 3 * 4 * 84 * 84
    assert " | ".join(f"{n:,}" for n in [floats, *counted]) in page
