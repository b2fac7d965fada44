"""SEER in LeRobot's HIL-SERL: its own learner, buffers, policy and datasets, on pictures of a real simulation."""

import copy
import functools
import itertools
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
pytest.importorskip("lerobot", reason="LeRobot is installed by hand: docs/lerobot.md")
try:
    import torchvision  # noqa: F401
except RuntimeError:  # its operators were compiled for another build of PyTorch: LeRobot's buffers and policy need none of them
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainRLServerPipelineConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs.configs import HILSerlRobotEnvConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_policy
from lerobot.policies.sac.configuration_sac import ActorLearnerConfig, SACConfig
from lerobot.policies.sac.modeling_sac import SACObservationEncoder, SACPolicy
from lerobot.policies.sac.processor_sac import make_sac_pre_post_processors
from lerobot.rl import learner
from lerobot.rl.buffer import ReplayBuffer, concatenate_batch_transitions, random_shift
from lerobot.transport.utils import transitions_to_bytes
from transformers import ResNetConfig, ResNetModel

from examples import robot
from seer_rl.integrations.lerobot import FeatureBuffer, feature_buffer, stored_features
from seer_rl.replay.codec import Dtype

pytestmark = [
    # LeRobot's, of a histogram of truth values and of what PyTorch deprecates.
    pytest.mark.filterwarnings("ignore:Converting input from bool:RuntimeWarning"),
]

SIZE = 64
CAMERAS = ("observation.images.side", "observation.images.hand")
STATE = "observation.state"
KEYS = (*CAMERAS, STATE)
EPISODE = 9  # steps
Steps = list[dict[str, Any]]


def network(sizes: list[int], first: int, path: Path) -> str:
    """Write a residual network with batch normalisation to a directory, which the library loads as a vision encoder."""
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(embedding_size=first, hidden_sizes=sizes, depths=[1] * len(sizes), layer_type="basic"))
    for name, x in model.named_buffers():  # as after training: not the statistics of any batch
        if name.endswith(("running_mean", "running_var")):
            torch.nn.init.uniform_(x, *((-0.2, 0.2) if name.endswith("mean") else (0.5, 1.5)))
    model.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small vision encoder on disk: features are 16x8x8."""
    return network([8, 16], 8, tmp_path_factory.mktemp("trunk"))


def config(trunk: str | None, size: int = SIZE, **settings: Any) -> SACConfig:
    """A policy for two cameras and joints, two torques and a gripper of three positions."""
    images = {key: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for key in CAMERAS}
    given: dict[str, Any] = {
        "input_features": {**images, STATE: PolicyFeature(FeatureType.STATE, (4,))},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (2,))},
        "vision_encoder_name": trunk, "latent_dim": 16, "use_torch_compile": False, "num_discrete_actions": 3,
        "push_to_hub": False, "device": "cpu",
    }  # fmt: skip
    return SACConfig(**(given | settings))


def policy(trunk: str | None, **settings: Any) -> Any:
    """The library's policy, in training mode as in its learner."""
    torch.manual_seed(3)
    return SACPolicy(config(trunk, **settings)).train()


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Steps:
    """Transitions as the library's actor sends them, of five episodes of which every other one is cut short.

    A process of its own draws them, for whatever draws in this one may have chosen another renderer.
    """
    path = tmp_path_factory.mktemp("steps") / "steps.pt"
    code = "from tests.integrations.test_lerobot import recorded; import sys, torch; torch.save(recorded(), sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, cwd=Path(__file__).parents[2])
    found: Steps = torch.load(path, weights_only=False)
    return found


def recorded() -> Steps:
    """Play the episodes."""
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(robot.CAMERAS, "hand", SIZE)  # the library's encoder takes images of one size
        arm = robot.Arm()

    def seen(obs: Any) -> dict[str, torch.Tensor]:
        images = {key: torch.from_numpy(obs[key.split(".")[-1]].copy()).permute(2, 0, 1)[None] / 255 for key in CAMERAS}
        return {**images, STATE: torch.from_numpy(obs["joints"]).float()[None]}

    made = []
    for episode in range(5):
        obs, _ = arm.reset(seed=episode)
        for step in range(EPISODE):
            torques = torch.rand(1, 2) * 4 - 2
            after, reward, *_ = arm.step(torques[0].numpy())
            last, cut = step == EPISODE - 1, episode % 2 == 1
            made.append({
                "state": seen(obs), "action": torch.cat([torques, torch.tensor([[float(step % 3)]])], 1), "reward": reward,
                "next_state": seen(after), "done": last and not cut, "truncated": last and cut,
                "complementary_info": {"discrete_penalty": torch.tensor([-0.1 * (step % 2)])},
            })  # fmt: skip
            obs = after
    arm.close()
    return made


@pytest.fixture(scope="module")
def demos(steps: Steps, tmp_path_factory: pytest.TempPathFactory) -> LeRobotDataset:
    """Four of these episodes as a dataset on disk, as the library writes and reads demonstrations."""
    root = tmp_path_factory.mktemp("data") / "demos"
    features: dict[str, Any] = {key: {"dtype": "image", "shape": (3, SIZE, SIZE), "names": ["c", "h", "w"]} for key in CAMERAS}
    sizes = {STATE: 4, "action": 3, "next.reward": 1, "complementary_info.discrete_penalty": 1}
    features |= {key: {"dtype": "float32", "shape": (size,), "names": None} for key, size in sizes.items()}
    features["next.done"] = {"dtype": "bool", "shape": (1,), "names": None}
    made = LeRobotDataset.create("demos", 20, features, root=root, use_videos=False)
    for i, step in enumerate(steps[: 4 * EPISODE]):
        last = (i + 1) % EPISODE == 0
        frame = {key: x[0] for key, x in step["state"].items()} | {"action": step["action"][0]}
        frame |= {"next.reward": torch.tensor([step["reward"]]).float(), "next.done": torch.tensor([last])}
        frame["complementary_info.discrete_penalty"] = step["complementary_info"]["discrete_penalty"]
        made.add_frame({key: x.numpy() for key, x in frame.items()} | {"task": "reach"})
        if last:
            for key, buffered in made.episode_buffer.items():  # NumPy 2.4 makes no number of an array [1], as the library does
                if sizes.get(key) == 1 or key == "next.done":
                    made.episode_buffer[key] = [x[0] for x in buffered]
            made.save_episode()
    made.finalize()
    return LeRobotDataset("demos", root)


def made(kind: Any, capacity: int = 60, optimize: bool = True) -> Any:
    """A buffer that augments nothing."""
    return kind(capacity, "cpu", KEYS, use_drq=False, optimize_memory=optimize)


def filled(buffer: Any, steps: Steps) -> Any:
    """The same buffer, with these transitions."""
    for step in steps:
        buffer.add(**step)
    return buffer


def drawn(*buffers: Any, count: int = 32, seed: int = 4) -> list[Any]:
    """A batch of each buffer, drawn with the same random numbers."""
    batches = []
    for buffer in buffers:
        torch.manual_seed(seed)
        batches.append(buffer.sample(count))
    return batches


def by_hand(trunk: str, images: torch.Tensor) -> torch.Tensor:
    """Features [n, C, h, w] without the library: what the network on disk makes of images."""
    with torch.no_grad():
        features: torch.Tensor = ResNetModel.from_pretrained(trunk).eval()(images).last_hidden_state
    return features


def compare(ours: Any, theirs: Any, trunk: str) -> None:
    """Compare batches of the same transitions: ours of features, the library's of images."""
    for name in ("action", "reward", "done", "truncated"):
        assert torch.equal(ours[name], theirs[name])
    assert torch.equal(*(batch["complementary_info"]["discrete_penalty"] for batch in (ours, theirs)))
    for name in ("state", "next_state"):
        assert torch.equal(ours[name][STATE], theirs[name][STATE])
        for key in CAMERAS:
            assert ours[name][key].shape == (len(ours["reward"]), 16, 8, 8)
            torch.testing.assert_close(ours[name][key], by_hand(trunk, theirs[name][key]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("capacity", [60, 31])  # of 45 transitions: a ring that is not full, and one that wrapped
def test_transitions_are_those_of_the_librarys_own_buffer(
    optimize: bool, capacity: int, trunk: str, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Contract (f): every one of them, at ends of episodes, terminated or cut, and where the ring wraps."""
    kind = feature_buffer(policy(trunk), "float32", 1)
    theirs, ours = (filled(made(one, capacity, optimize), steps) for one in (ReplayBuffer, kind))
    assert len(ours) == len(theirs) == min(capacity, len(steps))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.arange(size[0], device=device) % high)
    batch = ours.sample(capacity)
    assert len(batch["reward"].unique()) >= min(capacity, len(steps)) - 1
    compare(batch, theirs.sample(capacity), trunk)


def test_demonstrations_are_embedded_at_loading(trunk: str, demos: LeRobotDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the library loads them from disk, frame by frame; no more than encoded features is held meanwhile."""
    kind = feature_buffer(policy(trunk), "float32", 1)
    theirs, ours = (
        one.from_lerobot_dataset(demos, "cpu", KEYS, 40, use_drq=False, optimize_memory=True) for one in (ReplayBuffer, kind)
    )
    monkeypatch.setattr(torch, "randint", lambda low, high, size, device: torch.arange(size[0], device=device) % high)
    compare(ours.sample(40), theirs.sample(40), trunk)
    monkeypatch.undo()
    few = torch.utils.data.Subset(demos, range(31))
    with pytest.raises(RuntimeError, match="31 observations make no grid of uint4"):
        feature_buffer(policy(trunk), "uint4", 2).from_lerobot_dataset(few, "cpu", KEYS, 40)
    transitions: Any = feature_buffer(policy(trunk), "uint4", 2)._lerobotdataset_to_transitions(demos, KEYS)
    for one, other in itertools.pairwise(transitions):
        for key in CAMERAS:
            assert one["state"][key].shape == (1, 2, 16 * 8 * 8 // 2)
            assert one["state"][key].dtype == torch.uint8
            assert one["done"] or one["next_state"][key].data_ptr() == other["state"][key].data_ptr()  # once in memory


def losses(one: Any, batch: Any) -> dict[str, torch.Tensor]:
    """All losses of a policy, and the gradients of the critic's, as the library's learner computes them."""
    features = learner.get_observation_features(one, batch["state"], batch["next_state"])
    given = {**batch, "observation_feature": features[0], "next_observation_feature": features[1]}
    found = {}
    for model in ("critic", "discrete_critic", "actor", "temperature"):
        torch.manual_seed(7)  # of actions and of dropout
        (found[model],) = one.forward(given, model=model).values()
    one.zero_grad()
    found["critic"].backward()
    return found | {name: x.grad for name, x in one.critic_ensemble.named_parameters() if x.grad is not None}


@pytest.mark.parametrize("kind", ["shared", "apart", "own"])  # own: the library's small network, of a policy that was trained
def test_losses_on_features_are_losses_on_images(kind: str, trunk: str, steps: Steps, demos: LeRobotDataset) -> None:
    """Contract (a), on batches of both buffers, with gradients of all that goes on learning; (i), acting on images."""
    plain = policy(None, pretrained_path=Path("trained")) if kind == "own" else policy(trunk, shared_encoder=kind == "shared")
    ours = copy.deepcopy(plain)
    for encoder in (plain.encoder_actor, plain.encoder_critic):
        encoder.image_encoder.eval()  # the library leaves it in training mode, and its batch normalisation moves
    classes: list[Any] = [ReplayBuffer, feature_buffer(ours, "float32", 1)]
    online = [filled(made(one), steps) for one in classes]
    offline = [one.from_lerobot_dataset(demos, "cpu", KEYS, 40, use_drq=False, optimize_memory=True) for one in classes]
    batches = [concatenate_batch_transitions(*both) for both in zip(drawn(*online), drawn(*offline), strict=True)]
    on_images, on_features = losses(plain, batches[0]), losses(ours, batches[1])
    assert {"encoder.spatial_embeddings.observation_images_side.kernel", "critics.0.net.net.0.weight"} <= on_images.keys()
    assert not any("image_encoder" in name for name in on_features)
    assert on_images.keys() == on_features.keys()
    for name, x in on_images.items():
        torch.testing.assert_close(on_features[name], x, atol=1e-5, rtol=1e-5)
    actions = []
    for one in (plain.eval(), ours.eval()):
        torch.manual_seed(7)
        actions.append(one.select_action({key: x[:1] for key, x in batches[0]["state"].items()}))
    assert torch.equal(*actions)


def test_targets_follow_as_in_the_library_and_what_is_shared_stays(trunk: str) -> None:
    """Contract (c): the library's own mean of a shared weight and itself is not that weight."""
    plain = policy(trunk)
    feature_buffer(ours := copy.deepcopy(plain))
    before = copy.deepcopy(plain.state_dict())
    for one in (plain, ours):
        torch.manual_seed(5)
        for name in ("critic_ensemble", "discrete_critic"):
            for key, x in getattr(one, name).named_parameters():
                if not key.startswith("encoder"):
                    x.data += torch.rand_like(x)
        for _ in range(3):
            one.update_target_networks()
    targets = {key: x for key, x in ours.state_dict().items() if "_target." in key and ".encoder." not in key}
    assert any(key.startswith("discrete_critic_target") for key in targets)
    for key, x in targets.items():
        assert not torch.equal(x, before[key])
        torch.testing.assert_close(x, plain.state_dict()[key])
    encoder = {key: x for key, x in ours.state_dict().items() if "encoder" in key}
    assert all(torch.equal(x, before[key]) for key, x in encoder.items())
    assert not all(torch.equal(x, before[key]) for key, x in plain.state_dict().items() if key in encoder)


def test_views_are_the_librarys_shifts_and_one_is_drawn(trunk: str, steps: Steps) -> None:
    kind = feature_buffer(policy(trunk), "float32", 3)
    buffer = kind(8, "cpu", KEYS, optimize_memory=True)
    expected: dict[str, list[torch.Tensor]] = {key: [] for key in CAMERAS}
    for i, step in enumerate(steps[:4]):
        torch.manual_seed(i)
        buffer.add(**step)
        torch.manual_seed(i)
        for key in CAMERAS:
            expected[key].append(by_hand(trunk, random_shift(step["state"][key].repeat_interleave(3, 0))))
    pairs: set[tuple[int, ...]] = set()
    for seed in range(60):
        (batch,) = drawn(buffer, count=3, seed=seed)
        for row, action in enumerate(batch["action"]):
            number = next(i for i in range(4) if torch.equal(steps[i]["action"][0], action))
            which = []
            for name, key, at in (("state", CAMERAS[0], number), ("next_state", CAMERAS[1], number + 1)):
                gap = (expected[key][at] - batch[name][key][row]).abs().amax((1, 2, 3))
                which.append(int(gap.argmin()))
                assert gap.min() < 1e-5
            pairs.add((number, *which))
    assert len({gap for x in expected.values() for gap in x[0].flatten(1).sum(1).tolist()}) == 6
    assert len(pairs) == 3 * 3 * 3  # every view with every other's, of each of the three transitions


def test_images_are_normalized_where_the_training_loop_does(trunk: str, steps: Steps) -> None:
    """By the library's own preprocessor, with statistics for each camera."""
    means = dict(zip(CAMERAS, (0.1, 0.6), strict=True))
    stats = {key: {"mean": torch.full((3, 1, 1), mean), "std": torch.full((3, 1, 1), 0.2)} for key, mean in means.items()}
    one = policy(trunk)
    one.config.normalization_mapping = {"VISUAL": one.config.normalization_mapping["VISUAL"]}
    before, _ = make_sac_pre_post_processors(one.config, stats)
    buffer = filled(made(feature_buffer(one, "float32", 1, before.process_observation)), steps[:5])
    for i in range(5):
        for key, mean in means.items():
            expected = by_hand(trunk, (steps[i]["state"][key] - mean) / (0.2 + 1e-8))
            torch.testing.assert_close(buffer.states[key].rows[i], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("uint8", 1 / 255), ("uint4", 1 / 15)])
def test_numbers_come_back_within_half_a_step(dtype: Dtype, error: float, trunk: str, steps: Steps) -> None:
    """From integers, once there are enough observations for a grid; others wait, and count."""
    kind = feature_buffer(policy(trunk), dtype, 1)
    buffer = filled(made(kind), steps[:10])
    assert len(buffer) == 10
    if dtype != "float16":
        with pytest.raises(RuntimeError, match=f"10 observations make no grid of {dtype}: add 32 before sampling"):
            buffer.sample(4)
    filled(buffer, steps[10:])
    assert len(buffer) == len(steps)
    plain = filled(made(feature_buffer(policy(trunk), "float32", 1)), steps)
    iterator = buffer.get_iterator(32, async_prefetch=True)
    assert next(iterator)["state"][CAMERAS[0]].shape == (32, 16, 8, 8)
    iterator.close()
    coarse, fine = drawn(buffer, plain)
    assert torch.equal(coarse["reward"], fine["reward"])
    for key in CAMERAS:
        alive, widest = fine["next_state"][key] > 0, fine["next_state"][key].amax()
        gap = (coarse["next_state"][key] - fine["next_state"][key]).abs()[alive]
        assert 0 < gap.median() <= error * widest / 2
        assert (gap <= error * widest / 2 + 1e-6).float().mean() > 0.98  # all but what a grid leaves out


class Updates(queue.Queue[bytes]):
    """The queue in which the learner sends weights to actors; it stops the learner after some updates."""

    def __init__(self, count: int, stop: threading.Event) -> None:
        super().__init__()
        self.left, self.stop = count, stop

    def put(self, item: bytes, *_: Any) -> None:
        self.left -= 1
        if self.left < 0:  # the first come before the first update
            self.stop.set()


def learn(settings: TrainRLServerPipelineConfig, sent: Steps, count: int) -> tuple[list[Any], list[dict[str, Any]]]:
    """Run the library's learner for `count` updates; return its buffers, and the critics as they were before the first."""
    buffers: list[Any] = []
    states: list[dict[str, Any]] = []
    arrived: Any = queue.Queue()
    for i in range(0, len(sent), EPISODE):
        arrived.put(transitions_to_bytes(sent[i : i + EPISODE]))
    stop = threading.Event()
    with pytest.MonkeyPatch.context() as patch, stored_features("uint8", 2):

        def kept(make: Any, *args: Any, **kwargs: Any) -> Any:
            buffers.append(make(*args, **kwargs))
            states.append(copy.deepcopy(buffers[-1].features.encoder.state_dict()))
            return buffers[-1]

        for name in ("initialize_replay_buffer", "initialize_offline_replay_buffer"):
            patch.setattr(learner, name, functools.partial(kept, getattr(learner, name)))
        learner.add_actor_information_and_train(settings, None, stop, arrived, queue.Queue(), Updates(count, stop))
    assert learner.ReplayBuffer is ReplayBuffer
    assert learner.LeRobotDataset is LeRobotDataset
    return buffers, states


def test_the_librarys_learner_trains_on_features_and_goes_on(
    trunk: str, steps: Steps, demos: LeRobotDataset, tmp_path: Path
) -> None:
    """Contract (c), (d), (i): 100 updates from both buffers through a checkpoint, then a run that goes on from there."""
    given = config(trunk, online_buffer_capacity=50, offline_buffer_capacity=40, online_step_before_learning=40, utd_ratio=2)
    given.actor_learner_config = ActorLearnerConfig(policy_parameters_push_frequency=-1)
    spaces = {**given.input_features, **given.output_features}
    env = HILSerlRobotEnvConfig(task="arm", features=spaces, features_map={key: key for key in spaces})
    settings = TrainRLServerPipelineConfig(
        dataset=DatasetConfig("demos", str(demos.root)), env=env, policy=given, output_dir=tmp_path / "run", batch_size=8,
        save_freq=50,
    )  # fmt: skip
    buffers, states = learn(settings, steps, 50)
    assert [len(buffer) for buffer in buffers] == [len(steps), 4 * EPISODE]
    on_disk = ResNetModel.from_pretrained(trunk).state_dict()
    for buffer, before in zip(buffers, states, strict=True):
        assert isinstance(buffer, FeatureBuffer)
        after = buffer.features.encoder.state_dict()
        assert all(torch.equal(x, after[f"image_encoder.image_enc_layers.{name}"]) for name, x in on_disk.items())
        moved = {name.split(".")[0] for name, x in after.items() if not torch.equal(x, before[name])}
        assert moved == {"spatial_embeddings", "post_encoders", "state_encoder"}
        for key in CAMERAS:
            assert buffer.states[key].rows.dtype == torch.uint8
            assert buffer.states[key].rows.shape == (buffer.capacity, 2, 16, 8, 8)

    checkpoint = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    alone = SACPolicy.from_pretrained(checkpoint, local_files_only=True)
    assert type(alone.encoder_actor) is SACObservationEncoder  # as in a process that has never heard of features
    actor = buffers[0].features.encoder
    images = {key: x[:1] for key, x in steps[5]["state"].items()}
    assert torch.equal(alone.encoder_actor(images), actor.eval()(images))

    settings.resume, settings.policy = True, copy.deepcopy(given)
    settings.policy.pretrained_path = checkpoint
    again, states = learn(settings, [], 1)
    for one, other, state in zip(buffers, again, states, strict=True):
        assert all(torch.equal(x, actor.state_dict()[name]) for name, x in state.items())
        for mine, its in zip(*(batch["next_state"].values() for batch in drawn(one, other)), strict=True):
            assert torch.equal(mine, its)


def _moved(module: torch.nn.Module) -> None:
    """Move the weights of a convolution a little."""
    if isinstance(module, torch.nn.Conv2d):
        module.weight += 1e-6


@pytest.mark.parametrize("optimize", [True, False])
def test_a_saved_buffer_gives_the_same_transitions(optimize: bool, trunk: str, steps: Steps, tmp_path: Path) -> None:
    """Contract (d): where the ring had wrapped, the oldest comes first, and more fit than before."""
    kinds = [feature_buffer(policy(trunk), "uint4", 1) for _ in range(2)]
    buffer = filled(made(kinds[0], 33, optimize), steps)
    path = buffer.to_lerobot_dataset("name", root=tmp_path)
    assert path.stat().st_size < 33 * 2 * (1 if optimize else 2) * 512 + 20_000
    again = kinds[1].from_lerobot_dataset(path, "cpu", KEYS, 44, optimize_memory=optimize)
    assert len(again) == 33
    order = (torch.arange(33) + len(steps)) % 33
    with pytest.MonkeyPatch.context() as patch:
        batches = []
        for one, rows in ((buffer, order[:-1]), (again, torch.arange(32))):
            patch.setattr(torch, "randint", lambda low, high, size, device, rows=rows: rows)
            batches.append(one.sample(32))
    for name in ("state", "next_state"):
        assert all(torch.equal(x, batches[1][name][key]) for key, x in batches[0][name].items())
    assert torch.equal(batches[0]["reward"], batches[1]["reward"])
    filled(again, steps[:12])
    assert len(again) == 44
    with pytest.raises(ValueError, match="a capacity of 20"):
        kinds[1].from_lerobot_dataset(path, "cpu", KEYS, 20, optimize_memory=optimize)
    with pytest.raises(ValueError, match=f"optimize_memory={optimize}, and cannot go on with {not optimize}"):
        kinds[1].from_lerobot_dataset(path, "cpu", KEYS, 44, optimize_memory=not optimize)
    with pytest.raises(ValueError, match="saved with views=1, and cannot go on with 2"):
        feature_buffer(policy(trunk), "uint4", 2).from_lerobot_dataset(path, "cpu", KEYS, 44, optimize_memory=optimize)
    (other := policy(trunk)).encoder_actor.image_encoder.requires_grad_(False).apply(_moved)
    with pytest.raises(ValueError, match="another vision encoder made the features"):
        feature_buffer(other, "uint4", 1).from_lerobot_dataset(path, "cpu", KEYS, 44, optimize_memory=optimize)
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz does not hold this policy's features: it has no made_by"):
        kinds[1].from_lerobot_dataset(tmp_path / "other.npz", "cpu", KEYS, 44, optimize_memory=optimize)
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.npz is no file of saved features, or it is damaged"):
        kinds[1].from_lerobot_dataset(tmp_path / "cut.npz", "cpu", KEYS, 44, optimize_memory=optimize)
    third = feature_buffer(policy(trunk), "uint4", 1)
    filled(made(third), [*steps[9:], *steps[9:]]).settle()
    with pytest.raises(ValueError, match="load the saved ones before"):
        third.from_lerobot_dataset(path, "cpu", KEYS, 44, optimize_memory=optimize)


def test_a_failed_save_leaves_the_earlier_one(
    trunk: str, steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full halfway costs nothing that was saved before, and leaves nothing behind."""
    buffer = filled(made(feature_buffer(policy(trunk), "uint4", 1), 33), steps)
    path = buffer.to_lerobot_dataset("name", root=tmp_path)
    before, its = path.read_bytes(), np.savez

    def full(file: Path, **arrays: Any) -> None:
        its(file, **dict(list(arrays.items())[:2]))
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        buffer.to_lerobot_dataset("name", root=tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_policy_is_copied_saved_and_loaded_before_and_after(trunk: str, steps: Steps, tmp_path: Path) -> None:
    """Contract (d), (i): names of weights stay, and a policy loaded into another's place acts on images alike."""
    plain = policy(trunk)
    names = list(plain.state_dict())
    plain.save_pretrained(tmp_path / "before")
    feature_buffer(plain)
    assert list(plain.state_dict()) == names
    plain.save_pretrained(tmp_path / "after")
    images = {key: x[:1] for key, x in steps[5]["state"].items()}
    feature_buffer(one := SACPolicy.from_pretrained(tmp_path / "before", local_files_only=True))
    two = SACPolicy.from_pretrained(tmp_path / "after", local_files_only=True)
    (three := policy(trunk, latent_dim=16)).load_state_dict(copy.deepcopy(plain).state_dict())
    actions = []
    for each in (plain.eval(), one, two, three.eval()):
        torch.manual_seed(0)
        actions.append(each.select_action(images))
    assert all(torch.equal(action, actions[0]) for action in actions)


def test_bytes_of_an_observation_are_those_of_the_page(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Contract (g), docs/lerobot.md, "What it saves": two cameras of 128x128, a network of the size of ResNet10."""
    monkeypatch.setattr("seer_rl.integrations.lerobot.LEAST", 1)
    page = (Path(__file__).parents[2] / "docs" / "lerobot.md").read_text("utf-8")
    one = SACPolicy(config(network([64, 128, 256, 512], 64, tmp_path), 128))
    step = copy.deepcopy(steps[0])
    for name in ("state", "next_state"):
        for key in CAMERAS:
            step[name][key] = step[name][key].repeat_interleave(2, 2).repeat_interleave(2, 3)
    theirs = filled(made(ReplayBuffer, 10), [step])
    row = [sum(theirs.states[key].nbytes for key in CAMERAS) // 10]
    dtypes: tuple[Dtype, ...] = ("float32", "float16", "uint8", "uint4")
    for views in (1, 4):
        counted = []
        for dtype in dtypes:
            buffer = feature_buffer(one, dtype, views)(10, "cpu", KEYS, optimize_memory=True)
            filled(buffer, [step]).settle()
            counted.append(sum(buffer.states[key].rows.nbytes for key in CAMERAS) // 10)
            assert buffer.states.keys() == theirs.states.keys()
            assert buffer.states[STATE].nbytes == theirs.states[STATE].nbytes
        assert counted == [views * 2 * 512 * 4 * 4 * bits // 8 for bits in (32, 16, 8, 4)]
        assert " | ".join(f"{n:,}" for n in [*row, *counted]) in page
        assert f"{200_000 * counted[2] / 1e9:.1f} GB" in page
    assert f"{200_000 * row[0] / 1e9:.1f} GB" in page


@pytest.mark.parametrize(
    ("settings", "asked", "says"),
    [
        ({}, {"dtype": "uint7"}, "dtype is one of float32, float16, uint8, uint4, not 'uint7'"),
        ({}, {"views": 0}, "at least one view of an image is stored, not 0"),
        ({"freeze_vision_encoder": False}, {}, "set freeze_vision_encoder=True"),
        ({"vision_encoder_name": None}, {}, "never trained: give a vision_encoder_name or a pretrained_path"),
        ({"input_features": {STATE: PolicyFeature(FeatureType.STATE, (4,))}}, {}, "the policy sees no images"),
    ],
)
def test_what_cannot_be_done_right_is_refused_in_a_sentence(settings: Any, asked: Any, says: str, trunk: str) -> None:
    one = policy(settings.pop("vision_encoder_name", trunk), **settings)
    with pytest.raises(ValueError, match=says):
        feature_buffer(one, **asked)


def test_buffers_and_policies_that_do_not_fit_are_refused(trunk: str, steps: Steps) -> None:
    with pytest.raises(ValueError, match="SACPolicy, not for ACTPolicy"):
        feature_buffer(ACTPolicy.__new__(ACTPolicy))
    apart = policy(trunk, shared_encoder=False)
    next(apart.encoder_actor.image_encoder.parameters()).data.add_(1)
    with pytest.raises(ValueError, match="set shared_encoder=True"):
        feature_buffer(apart)
    alike = policy(trunk)
    for key in CAMERAS:
        alike.config.input_features[key] = PolicyFeature(FeatureType.VISUAL, (16, 8, 8))
    with pytest.raises(ValueError, match="could not be told apart"):
        feature_buffer(alike)
    kind = feature_buffer(policy(trunk), "float32", 2)
    with pytest.raises(ValueError, match="use_drq=False and 2 shifted views"):
        made(kind)
    with pytest.raises(ValueError, match="20 transitions are too few to make a grid of uint8: give a capacity of 32"):
        made(feature_buffer(policy(trunk), "uint8", 1), 20)
    with pytest.raises(ValueError, match="give no image_augmentation_function"):
        kind(8, image_augmentation_function=random_shift)
    with pytest.raises(ValueError, match="give a root"):
        filled(kind(8, "cpu", KEYS), steps[:2]).to_lerobot_dataset("name")
    with pytest.raises(ValueError, match="the vision encoder is trained"), stored_features():
        learner.make_policy(config(trunk, freeze_vision_encoder=False), env_cfg=_env())
    assert learner.make_policy is make_policy
    assert learner.ReplayBuffer is ReplayBuffer


def _env() -> HILSerlRobotEnvConfig:
    spaces = config(None).input_features | config(None).output_features
    return HILSerlRobotEnvConfig(features=spaces, features_map={key: key for key in spaces})


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.6.1")
    monkeypatch.delitem(sys.modules, "seer_rl.integrations.lerobot")
    with pytest.raises(ImportError, match=r"lerobot 0.4.4 only, and 0.6.1 is installed"):
        importlib.import_module("seer_rl.integrations.lerobot")
