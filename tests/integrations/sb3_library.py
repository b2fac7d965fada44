"""Run Stable-Baselines3's own tests with SEER's buffer and extractor in the place of the library's.

    python -m tests.integrations.sb3_library [--freeze] [pytest's arguments]

The tests are those of the installed version's source distribution, which pip downloads. Wherever they make an algorithm that
learns from a replay of images, it gets `SeerBuffer` and `SeerExtractor`, unless the test brings its own; with --freeze, every
`learn` that goes on for long enough freezes halfway. The last line counts the tests that made such an algorithm, and no other.
"""

import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space

from seer_rl.integrations.sb3 import Seer, SeerBuffer

FILES = ("buffers", "cnn", "dict_env", "n_step_replay", "predict", "save_load", "spaces", "train_eval_mode", "vec_normalize")


class Swap:
    """A plugin of pytest: swaps, and remembers in which tests it did."""

    def __init__(self, freezes: bool) -> None:
        self.freezes = freezes
        self.swapped = self.froze = False
        self.results: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Write down how a test ended in which something was swapped."""
        report = yield
        if report.when == "call" and self.swapped:
            self.results[item.nodeid] = report.outcome + (", frozen" if self.froze else "")
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Iterator[None]:
        """Let everything that a test makes be ours."""
        self.swapped = self.froze = False
        setup, learn = OffPolicyAlgorithm._setup_model, OffPolicyAlgorithm.learn

        def ours(model: Any) -> None:
            space = model.observation_space
            inner = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
            kwargs = dict(model.policy_kwargs)
            given = dict(kwargs.pop("features_extractor_kwargs", {}))
            if (
                model.replay_buffer_class is None
                and "features_extractor_class" not in kwargs
                and kwargs.get("normalize_images", True)
                and any(map(is_image_space, inner))
                and all(isinstance(one, spaces.Box) for one in inner)
                and model.policy_class.__name__ in ("CnnPolicy", "MultiInputPolicy")
            ):
                if "cnn_output_dim" in given:  # what the library's extractor for dictionaries calls it
                    given["features_dim"] = given.pop("cnn_output_dim")
                model.policy_kwargs = Seer(1).policy_kwargs(**kwargs, features_extractor_kwargs=given)
                model.replay_buffer_class = SeerBuffer
                self.swapped = True
            setup(model)

        def frozen(model: Any, total_timesteps: int, callback: Any = None, **rest: Any) -> Any:
            freeze = model.learning_starts + (total_timesteps - model.learning_starts) // 2
            if callback is None and isinstance(model.replay_buffer, SeerBuffer) and freeze > model.learning_starts:
                callback = seer = Seer(freeze, dtype="uint8")
                try:
                    return learn(model, total_timesteps, callback, **rest)
                finally:
                    self.froze |= seer.frozen_at is not None
            return learn(model, total_timesteps, callback, **rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OffPolicyAlgorithm, "_setup_model", ours)
            if self.freezes:
                patch.setattr(OffPolicyAlgorithm, "learn", frozen)
            yield


def main(arguments: list[str]) -> int:
    """Download, swap, run, and say how the tests ended that something was swapped in."""
    freezes = "--freeze" in arguments
    release = f"stable-baselines3=={version('stable-baselines3')}"
    with tempfile.TemporaryDirectory() as place:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", place]
        subprocess.run([*pip, release], check=True)
        with tarfile.open(next(Path(place).glob("*.tar.gz"))) as archive:
            archive.extractall(place, filter="data")
        tests = next(Path(place).glob("*/tests"))
        swap = Swap(freezes)
        rest = [argument for argument in arguments if argument != "--freeze"]
        only = [str(tests / f"test_{name}.py") for name in FILES]
        code = pytest.main(
            ["-q", "--no-header", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", place, *only, *rest], [swap]
        )
    for name, outcome in swap.results.items():
        print(f"{outcome:16} {name.partition('tests/')[2]}")
    print(
        f"{release}: {len(swap.results)} tests with ours, {sum(o.startswith('passed') for o in swap.results.values())} passed"
    )
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
