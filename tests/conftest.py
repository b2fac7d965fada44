"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch

from seer_rl.envs import atari
from tests.seer import SHORT_GAME

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start: two side by side would wait for each other's threads
for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background job, or nohup, ignores them, and all that it starts does
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Tests that `make test` leaves to `make test-all`: those that take a minute, and of several alike all but some.
SLOW = (
    "examples/test_iqn.py::test_every_command_knows_it",
    "experiments/test_cluster.py::test_runs_of_a_dead_node",
    "training/test_rundir.py::test_damage_for_a_while",
    "training/test_checkpoint.py::test_torture_for_a_while",
    "experiments/test_sweep.py::test_stopped_in_the_middle",
    "experiments/test_sweep.py::test_two_sweeps_share_their_runs",
    "experiments/test_report.py::test_a_film_that_cannot_be_made",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, once]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, often]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[sac]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, once]",
    "training/test_checkpoint.py::test_a_run_that_branches_off_another_is_the_run_from_its_beginning[auto]",
    "training/test_checkpoint.py::test_an_environment_that_fails_is_started_anew_once[raises]",
    "agents/test_actor_critics.py::test_a_task_on_tiny_images_is_solved_with_a_freeze_halfway[drqv2]",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[never-",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen before-uniform]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[sac]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[rad]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[drqv2]",
    "commands/test_console.py::test_a_terminal_of_any_width[0]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[first layer]",
    "training/test_loop.py::test_control_runs_pass_their_phases_repeatably[RADConfig]",
    "test_convergence.py::test_measuring_disturbs_nothing",
    "training/test_compile.py::test_where_nothing_compiles_the_run_goes_on",
    "training/test_compile.py::test_a_compiled_run_tells_what_compiling_took",
    "training/test_checkpoint.py::test_a_killed_run_goes_on_from_its_newest_checkpoint",
    "commands/test_console.py::test_a_run_ends_whoever_listens[{} 2>&-]",
    "commands/test_console.py::test_a_run_ends_whoever_listens[env -u TERM",
    "training/test_loop.py::test_every_kind_of_run_ends_well[dqn]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[first layer, uint4]",
    "training/test_loop.py::test_control_runs_pass_their_phases_repeatably[SACConfig]",
    "training/test_loop.py::test_what_an_update_costs_less",
    "test_convergence.py::test_a_picture_of_the_signals",
    "training/test_checkpoint.py::test_signals_stop_a_run_soon_with_a_checkpoint[2]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[drqv2]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, uint4]",
    "experiments/test_report.py::test_every_chart_is_drawn",
    "experiments/test_report.py::test_a_sweep_that_goes_on",
    "experiments/test_sweep.py::test_a_run_whose_process_is_killed_goes_on",
    "experiments/test_sweep.py::test_one_failure_does_not_stop_the_others",
    "commands/test_console.py::test_a_user_without_a_home_can_train_and_compile",
    "experiments/test_inspect.py::test_the_papers_figures",
    "test_convergence.py::test_an_automatic_freeze_in_pieces",
    "test_convergence.py::test_the_latest_is_met",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen after-uniform]",
    "test_seer.py::test_a_freeze_of_50000_steps",
    "commands/test_console.py::test_a_run_directory_need_not_be_utf_8",
    "commands/test_console.py::test_a_run_directory_is_printed_as_it_is",
    "training/test_loop.py::test_every_kind_of_run_ends_well[unlimited]",
    "training/test_transfer.py::test_a_run_with_anothers_encoder[encoder]",
    "experiments/test_export.py::test_the_file_acts_like_the_agent[drqv2",
    "experiments/test_inspect.py::test_snapshots_are_the_weights_of_their_step[cartpole]",
    "experiments/test_inspect.py::test_the_same_observations_are_looked_at_again[cartpole]",
    "experiments/test_inspect.py::test_attention[cartpole]",
    "experiments/test_inspect.py::test_similarity[cartpole]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, three",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, uint8]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, frozen from",
    "training/test_checkpoint.py::test_a_run_that_branches_off_another_is_the_run_from_its_beginning[fixed]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[curl]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[dqn]",
    "training/test_rundir.py::test_a_simulator_that_fails_in_an_evaluation[2]",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen after-prioritized]",
    "commands/test_console.py::test_what_an_agents_file_says_of_itself_cannot_redraw_the_screen",
    "test_seer.py::test_what_control_agents_froze_stays_bit_identical[curl, two layers]",
    "test_seer.py::test_what_control_agents_froze_stays_bit_identical[sac]",
    "test_convergence.py::test_the_same_settings_freeze_curl",
    "envs/test_gym.py::test_an_environment_that_tells_its_state_resumes_bit_for_bit[1]",
    "agents/test_keys.py::test_operations_and_signals_are_of_all_images[sac]",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `SLOW` names."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True, scope="session")
def short_games() -> Iterator[None]:
    """Cut Atari's games in this process after 50 steps: those of evaluations; runs learn from games in other processes.

    An agent that has learnt nothing plays on for a thousand steps, which would take most of a short run's time.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atari, "MAX_FRAMES", SHORT_GAME)
        yield


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A run flushes them for the rest of its process, which hypothesis rightly refuses to work with."""
    yield
    torch.set_flush_denormal(False)
