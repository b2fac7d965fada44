"""Words that cannot be read: a sentence that names the option, what was given and what would do."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from seer_rl.training.arguments import Mistake, parse, read
from seer_rl.training.config import check, has_random_features


def film(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    what: Annotated[str, tyro.conf.arg(metavar="WHAT")],
    /,
    speed: float,
    games: int = 1,
    last: int | Literal["auto"] | None = None,
    frames: tuple[int, ...] = (),
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    kind: Literal["mp4", "gif", "webm"] = "mp4",
) -> tuple[object, ...]:
    """Film a run."""
    return run, what, speed, games, last, frames, output, kind


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "RUN, WHAT and --speed are missing"),
        ("run a", "--speed is missing"),
        ("run a --sped 2", "there is no option --sped"),
        ("--sped 2 run a", "there is no option --sped"),
        ("run --sped=2 a --speed 1", "there is no option --sped"),
        ("run a b --speed 1", "'b' is one word too many"),
        ("run a --speed", "--speed needs a value"),
        ("run a --speed --games 3", "--speed needs a value"),
        ("run a --speed 1 -o", "-o or --output needs a value"),
        ("run a --speed fast", "cannot read --speed: 'fast' is not a number"),
        ("run a --speed 1 --games 1.5", "cannot read --games: '1.5' is not a whole number"),
        ("run a --speed 1 --games None", "cannot read --games: 'None' is not a whole number"),
        ("run a --speed 1 --last 1.5", "cannot read --last: '1.5' is not a whole number, auto or None"),
        ("run a --speed 1 --frames 1 2 x", "cannot read --frames: 'x' is not a whole number"),
        ("run a --speed 1 --kind avi", "--kind must be mp4, gif or webm, not 'avi'"),
    ],
)
def test_a_mistake_is_one_sentence_and_tyro_prints_nothing(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Mistake) as mistake:
        read(film, "film", words.split())
    assert str(mistake.value) == f"{sentence} (seer film --help)"
    assert capsys.readouterr() == ("", "")


def test_numbers_are_read_with_words_beside_them() -> None:
    def given(words: str) -> tuple[object, ...]:
        found: tuple[object, ...] = read(film, "film", ["run", "a", "--speed", "1e3", *words.split()])
        return found[2:6]

    assert given("") == (1000.0, 1, None, ())
    assert given("--games -2 --last auto --frames 1 -2") == (1000.0, -2, "auto", (1, -2))
    assert given("--last 7 --frames") == (1000.0, 1, 7, ())
    assert given("--last None") == (1000.0, 1, None, ())
    assert isinstance(given("")[0], float)


def test_help_says_what_numbers_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        read(film, "film", ["--help"])
    out = capsys.readouterr().out
    for text in ("--speed FLOAT", "--games INT", "--last {None}|INT|{auto}", "--frames [INT [INT ...]]", "(default: None)"):
        assert text in out


def test_without_what_tyro_keeps_to_itself_it_says_mistakes_its_own_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    with pytest.raises(SystemExit, match="2"):
        read(film, "film", ["run", "a", "--speed"])
    assert "--speed" in capsys.readouterr().err


def test_agent_and_preset_choose_defaults_wherever_they_stand() -> None:
    config = parse(["--preset=quick", "--seed", "3", "atari/pong", "--agent", "dqn", "--label=--agent"])
    assert (config.env, config.seed, config.steps, config.label) == ("atari/pong", 3, 40_000, "--agent")
    assert type(config.agent).__name__ == "DQNConfig"
    for words, sentence in ((["--agent"], "--agent needs a value"), (["--preset", "papr"], "there is no preset 'papr'")):
        with pytest.raises(Mistake, match=sentence):
            parse(["atari/pong", *words])


@pytest.mark.parametrize(
    ("words", "freezes"),
    [
        ("--preset quick --steps 2000", 1_800),  # half-way from the first update, at 1,600, to the end
        ("--preset quick --steps 8000", 4_800),
        ("--preset paper --steps 20000", 10_800),
        ("--preset quick --steps 2000 --seer.freeze-step None", None),
        ("--preset quick --steps 2000 --seer.freeze auto", "auto"),
    ],
)
def test_a_presets_freeze_comes_within_a_shorter_run(words: str, freezes: object, recwarn: pytest.WarningsRecorder) -> None:
    assert parse(["atari/alien", *words.split()]).seer.freeze_step == freezes
    said = [str(one.message) for one in recwarn]
    assert len(said) == (1 if isinstance(freezes, int) else 0)
    assert all(f"it comes at step {freezes:,}" in one for one in said)


@pytest.mark.parametrize(
    "words",
    [
        "--preset quick --steps 2000 --seer.freeze-step 9000",  # the user's own
        "--preset quick --steps 1600",  # no update comes before the end
        "--steps 2000 --seer.freeze-step 8000",
    ],
)
def test_any_other_freeze_beyond_the_run_is_refused(words: str) -> None:
    config = parse(["atari/alien", *words.split()])
    with pytest.raises(ValueError, match="lies beyond the run"):
        check(config)


def test_a_presets_freeze_stays_where_the_run_reaches_it() -> None:
    assert parse(["atari/alien", "--preset", "quick"]).seer.freeze_step == 8_000
    assert parse(["atari/alien", "--preset", "quick", "--steps", "8001"]).seer.freeze_step == 8_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seer.freeze-step 0", True),
        ("--seer.freeze-step 1599", True),
        ("--seer.freeze-step 1600", False),
        ("--seer.freeze-step auto", False),
        ("--transfer runs/other", False),
        ("--agent.encoder backbone:gray --seer.freeze-step 0", False),
        ("", False),
    ],
)
def test_a_freeze_of_random_weights_is_known(words: str, said: bool) -> None:
    assert has_random_features(parse(["atari/alien", *words.split()])) is said
