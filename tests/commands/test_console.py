"""What reaches the terminal, and that a run does not depend on who listens. Every run here is a process of its own."""

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
import safetensors.torch
import torch

from seer_rl.commands.console import Screen
from seer_rl.text import quoted, visible
from seer_rl.training import checkpoint, loop, rundir
from tests import seer

SEER = [sys.executable, "-P", str(Path(seer.__file__))]
A = ["train", "atari/asterix", "--no-compile", "--eval.episodes", "1"]
A += ["--agent.learning-starts", "20", "--agent.batch-size", "8", "--agent.hidden", "16"]
SHORT = [*A, "--steps", "60", "--run-dir", "run"]
LONG = [*A, "--steps", "100000", "--eval.every", "100000", "--run-dir", "run"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ended(run_dir: Path) -> bool:
    return rundir.ended_at(run_dir) == 60


# ---- names ---------------------------------------------------------------------------------------------------------


def test_control_characters_are_shown_and_everything_else_stays() -> None:
    assert visible("\x1b[2Jseer: all is well\r\n\u202egnp\udcff\x9b\x7f") == (
        r"\x1b[2Jseer: all is well\r\n\u202egnp\udcff\x9b\x7f"
    )
    for text in ("plain ± Ω 日本 \u200d😀 [bold] :smile: 'quote'", ""):
        assert visible(text) == text


def test_paths_are_quoted_for_a_shell(there: Path) -> None:
    names = [
        "plain",
        "two words",
        "a'b",
        '"',
        "$HOME",
        "-x",
        "--",
        "new\nline",
        "\x1b[31m",
        "ü",
        os.fsdecode(b"\xff\xfe"),
        "a\\b",
        "*",
    ]
    for name in names:
        done = subprocess.run(["bash", "-c", f"printf '%s|' {quoted(Path(name))}"], capture_output=True, check=True)
        assert os.fsdecode(done.stdout) in (f"{name}|", f"./{name}|"), name
        assert visible(quoted(Path(name))) == quoted(Path(name))


def test_a_run_directory_is_printed_as_it_is(there: Path) -> None:
    name = "r/exp[test] :smile: a[/b]\x1b[2J\nseer: forged"
    done = subprocess.run([*SEER, *A, "--steps", "40", "--run-dir", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{visible(name)}: atari/asterix, seed 0")
    assert f"again: seer eval {quoted(Path(name))} " in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert not re.search(r"^seer: forged", done.stdout, re.MULTILINE)
    command = re.search(r"again: seer (eval .*?)   film", done.stdout)
    assert command
    again = subprocess.run(
        ["bash", "-c", f"{shlex.join(SEER)} {command[1]} --episodes 1"], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr


def test_what_an_agents_file_says_of_itself_cannot_redraw_the_screen(there: Path) -> None:
    assert subprocess.run([*SEER, *SHORT], capture_output=True, check=False).returncode == 0
    about = '{"agent": "\\u001b[2Jdqn", "env": "x\\nseer: all is well"}'
    Path("run/agent.safetensors").write_bytes(safetensors.torch.save({"x": torch.zeros(1)}, {"seer-rl": about}))
    done = subprocess.run([*SEER, "eval", "run"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert r"holds a \x1b[2Jdqn agent for x\nseer: all is well" in done.stderr
    assert "\x1b" not in done.stderr
    assert [line[:5] for line in done.stderr.splitlines()] == ["note:", "seer:"]  # the first: such a file has no checksum


def test_tables_show_names_as_they_are() -> None:
    import io

    from rich.table import Table

    screen = Screen(file=io.StringIO(), width=100)
    table = Table("[b]head[/b]")
    table.add_row("cell [/x] :smile: \x1b[2J")
    screen.print(table)
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "[b]head[/b]" in text
    assert r"cell [/x] :smile: \x1b[2J" in text


# ---- who listens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shell",
    [
        "{} | head -1",
        "{} > /dev/full 2>&1",
        "{} 2>&-",
        "{} >&- 2>&- <&-",
        "PYTHONIOENCODING=ascii COLUMNS=1 {}",
        "LC_ALL=C PYTHONCOERCECLOCALE=0 PYTHONUTF8=0 TERM=dumb {}",
        "env -u TERM COLUMNS=0 LINES=0 {}",
    ],
)
def test_a_run_ends_whoever_listens(shell: str, there: Path) -> None:
    command = f"set -o pipefail; {shell.format(shlex.join([*SEER, *SHORT]))}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert ended(there / "run")


def begun(process: "subprocess.Popen[bytes]", step: int = 100) -> None:
    """Wait until it has trained for a while."""
    for _ in range(600):
        try:
            if checkpoint.newest(Path("run")) or f"\n{step},".encode() in Path("run/metrics.csv").read_bytes():
                return
        except OSError:
            pass
        assert process.poll() is None
        time.sleep(0.1)
    pytest.fail("it does not train")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_every_stop_leaves_a_checkpoint(name: str, there: Path) -> None:
    number = signal.Signals[name]
    command = [*SEER, *LONG, "--checkpoint-every", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begun(process)
        os.kill(process.pid, number)
        if number == signal.SIGHUP:  # a terminal that closes may send several
            time.sleep(0.01)
            os.kill(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    said = re.fullmatch(rb"seer: stopped at step ([\d,]+): go on with: seer resume run\n", errors)
    assert said
    with contextlib.closing(loop.resume(Path("run"), pytest.fail)) as run:
        assert f"{run.step:,}" == said[1].decode()


def test_ctrl_c_with_a_tee_that_dies_first(there: Path) -> None:
    """Both get the signal; what is printed while the checkpoint is written goes nowhere."""
    pipe, end = os.pipe()
    with subprocess.Popen([*SEER, *LONG, "--checkpoint-every", "50"], stdout=end, stderr=end) as process:
        os.close(end)
        begun(process)
        os.close(pipe)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(60) == 130
    run = loop.resume(Path("run"), pytest.fail)
    run.close()


def test_a_signal_that_nohup_ignores_stays_ignored(there: Path) -> None:
    with subprocess.Popen(
        ["nohup", *SEER, *LONG, "--checkpoint-every", "50"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as p:
        begun(p)
        os.kill(p.pid, signal.SIGHUP)
        time.sleep(1)
        assert p.poll() is None
        os.kill(p.pid, signal.SIGTERM)
        assert p.wait(60) == 128 + signal.SIGTERM


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(theirs)


@pytest.mark.parametrize("columns", [0, 1])
def test_a_terminal_of_any_width(columns: int, there: Path, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    with subprocess.Popen([*SEER, *SHORT], stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        said = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 65536)
    os.close(ours)
    assert process.returncode == 0, said.decode()
    assert ended(there / "run")


def test_a_run_directory_need_not_be_utf_8(there: Path) -> None:
    name = os.fsdecode(b"run\xff\xfe")
    done = subprocess.run([*SEER, *A, "--steps", "40", "--run-dir", name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(r"run\udcff\udcfe: atari/asterix")
    for command in (["eval", name, "--episodes", "1"], ["report", name, "--no-film"]):
        again = subprocess.run([*SEER, *command], capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs a user that the system does not know")
def test_a_user_without_a_home_can_train_and_compile(there: Path) -> None:
    there.chmod(0o777)
    compiled = [*(word for word in SHORT if word != "--no-compile"), "--agent", "dqn"]  # whose loss compiles soonest
    nobody = ["unshare", "--map-user=12345", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME", "-u", "XDG_CACHE_HOME"]
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    done = subprocess.run([*nobody, *SEER, *compiled], capture_output=True, text=True, check=False, env=environment)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert ended(there / "run")


@pytest.mark.parametrize("name", ["SIGHUP", "SIGKILL"])
def test_a_rehearsal_ends_with_who_asked_for_it(name: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (there / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(there / "tmp"))
    with subprocess.Popen(
        [*SEER, *SHORT, "--memory-limit", "2GB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for _ in range(600):
            if list((there / "tmp").iterdir()):
                break
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(process.pid, signal.Signals[name])
        process.wait(30)
    for _ in range(100):
        left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(there / "tmp").encode() in _environment(p.parent)]
        if not left and not list((there / "tmp").iterdir()):
            return
        time.sleep(0.2)
    pytest.fail(f"left behind: {left} {list((there / 'tmp').iterdir())}")


def _environment(process: Path) -> bytes:
    try:
        return b"" if int(process.name) == os.getpid() else (process / "environ").read_bytes()
    except OSError:
        return b""
