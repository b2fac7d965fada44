"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seer_rl.envs import atari
from tests.seer import SHORT_GAME

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of programs that tests start: two side by side would wait for each other's threads
for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background job, or nohup, ignores them, and all that it starts does
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Until when slow tests may begin, in seconds since 1970. CI has 25 minutes, and its machines differ by a factor of two.
SLOW_UNTIL = os.environ.get("SLOW_UNTIL")

# Tests that `make test` leaves to `make test-all`: those that take a minute, and of several alike all but some.
SLOW = (
    "examples/test_cleanrl.py::test_without_the_block",
    "examples/test_cleanrl.py::test_a_run_through_the_freeze",
    "examples/test_cleanrl.py::test_nothing_below_the_seam",
    "examples/test_cleanrl.py::test_losses_on_embeddings",
    "examples/test_cleanrl.py::test_transitions_are",
    "integrations/test_lerobot.py",
    "integrations/test_tianshou.py",
    "integrations/test_torchrl.py",
    "agents/test_actor_critics.py::test_a_task_on_tiny_images_is_solved_with_a_freeze_halfway[drqv2]",
    "agents/test_actor_critics.py::test_a_task_on_tiny_images_is_solved_with_a_freeze_halfway[sac]",
    "agents/test_actor_critics.py::test_a_time_limit_is_not_the_end_of_value[drqv2",
    "agents/test_keys.py::test_operations_and_signals_are_of_all_images[drqv2]",
    "agents/test_keys.py::test_operations_and_signals_are_of_all_images[sac]",
    "commands/test_console.py::test_a_rehearsal_ends_with_who_asked_for_it[SIGHUP]",
    "commands/test_console.py::test_a_run_directory_is_printed_as_it_is",
    "commands/test_console.py::test_a_run_directory_need_not_be_utf_8",
    "commands/test_console.py::test_a_run_ends_whoever_listens[LC_ALL",
    "commands/test_console.py::test_a_run_ends_whoever_listens[PYTHONIOENCODING",
    "commands/test_console.py::test_a_run_ends_whoever_listens[env -u TERM",
    "commands/test_console.py::test_a_run_ends_whoever_listens[{} 2>&-]",
    "commands/test_console.py::test_a_run_ends_whoever_listens[{} >&-",
    "commands/test_console.py::test_a_signal_that_nohup_ignores_stays_ignored",
    "commands/test_console.py::test_a_terminal_of_any_width",
    "commands/test_console.py::test_a_user_without_a_home_can_train_and_compile",
    "commands/test_console.py::test_ctrl_c_with_a_tee_that_dies_first",
    "commands/test_console.py::test_every_stop_leaves_a_checkpoint[SIGHUP]",
    "commands/test_console.py::test_every_stop_leaves_a_checkpoint[SIGINT]",
    "commands/test_console.py::test_what_an_agents_file_says_of_itself_cannot_redraw_the_screen",
    "envs/test_atari.py::test_a_restored_game_shows_what_the_other_shows[tic",
    "envs/test_dmc.py::test_without_a_renderer_one_sentence",
    "envs/test_gym.py::test_an_environment_that_tells_its_state_resumes_bit_for_bit[1]",
    "envs/test_subprocess.py::test_a_process_that_dies_takes_its_own_with_it[dmc",
    "envs/test_subprocess.py::test_a_process_that_hangs_is_told_and_replaced[dmc",
    "envs/test_subprocess.py::test_one_that_raises_fails_alone[dmc",
    "envs/test_subprocess.py::test_they_are_the_same_environments[dmc",
    "examples/test_ale.py::test_every_command_knows_it_once",
    "examples/test_ale.py::test_without_state_a_run_goes_on",
    "examples/test_iqn.py::test_every_command_knows_it",
    "experiments/test_cluster.py::test_runs_of_a_dead_node",
    "experiments/test_export.py::test_the_file_acts_like_the_agent[curl",
    "experiments/test_export.py::test_the_file_acts_like_the_agent[drqv2",
    "experiments/test_inspect.py::test_a_film[cartpole]",
    "experiments/test_inspect.py::test_attention[cartpole]",
    "experiments/test_inspect.py::test_bad_input[cartpole",
    "experiments/test_inspect.py::test_similarity[cartpole]",
    "experiments/test_inspect.py::test_snapshots_are_the_weights_of_their_step[cartpole]",
    "experiments/test_inspect.py::test_the_papers_figures",
    "experiments/test_inspect.py::test_the_same_observations_are_looked_at_again[cartpole]",
    "experiments/test_paper.py::test_estimate_of_a_plan",
    "experiments/test_report.py::test_a_film_that_cannot_be_made",
    "experiments/test_report.py::test_a_sweep_that_goes_on",
    "experiments/test_report.py::test_an_open_page",
    "experiments/test_report.py::test_contents",
    "experiments/test_report.py::test_every_chart_is_drawn",
    "experiments/test_report.py::test_hostile_names",
    "experiments/test_report.py::test_print",
    "experiments/test_report.py::test_the_axis_switches",
    "experiments/test_report.py::test_the_policy_stops",
    "experiments/test_report.py::test_values_at_the_cursor",
    "experiments/test_report.py::test_watching",
    "experiments/test_sweep.py::test_a_run_whose_process_is_killed_goes_on",
    "experiments/test_sweep.py::test_finished_runs_are_not_repeated",
    "experiments/test_sweep.py::test_one_failure_does_not_stop_the_others",
    "experiments/test_sweep.py::test_other_settings_are_refused",
    "experiments/test_sweep.py::test_stopped_in_the_middle",
    "experiments/test_sweep.py::test_two_sweeps_share_their_runs",
    "experiments/test_unit.py::test_arms_share_their_beginning",
    "integrations/test_sb3.py::test_a_run_freezes_is_saved_and_goes_on",
    "integrations/test_sb3.py::test_a_shared_extractor",
    "integrations/test_sb3.py::test_an_automatic_freeze_measures_and_comes_at_the_latest",
    "integrations/test_sb3.py::test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves[dict]",
    "integrations/test_sb3.py::test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves[qrdqn]",
    "integrations/test_sb3.py::test_losses_on_embeddings_are_losses_on_images_and_nothing_below_moves[td3]",
    "integrations/test_sb3.py::test_measurements_go_on",
    "integrations/test_sb3.py::test_the_rule_is_the_one_of_the_library",
    "integrations/test_sb3.py::test_transitions_are_those_of_the_librarys_own_buffer[dict",
    "test_benchmarks.py::test_stores_of_the_same_steps",
    "test_benchmarks.py::test_what_pages_call",
    "test_convergence.py::test_a_picture_of_the_signals",
    "test_convergence.py::test_an_automatic_freeze_in_pieces",
    "test_convergence.py::test_measuring_disturbs_nothing",
    "test_convergence.py::test_the_latest_is_met",
    "test_convergence.py::test_the_same_settings_freeze_curl",
    "test_docs.py::test_the_site_builds_without_a_warning",
    "test_docs.py::test_a_notebook_runs",
    "test_readme.py::test_the_program_for_stable_baselines3_runs",
    "test_seer.py::test_a_freeze_of_50000_steps",
    "test_seer.py::test_what_control_agents_froze_stays_bit_identical[curl, two layers]",
    "test_seer.py::test_what_control_agents_froze_stays_bit_identical[drqv2]",
    "test_seer.py::test_what_control_agents_froze_stays_bit_identical[sac]",
    "training/test_checkpoint.py::test_a_killed_run_goes_on_from_its_newest_checkpoint",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, three",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, uint8]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[drqv2]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, frozen from",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, uint4]",
    "training/test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[sac]",
    "training/test_checkpoint.py::test_a_run_that_branches_off_another_is_the_run_from_its_beginning[auto]",
    "training/test_checkpoint.py::test_a_run_that_branches_off_another_is_the_run_from_its_beginning[fixed]",
    "training/test_checkpoint.py::test_an_environment_that_fails_is_started_anew_once[dies]",
    "training/test_checkpoint.py::test_an_environment_that_fails_is_started_anew_once[raises]",
    "training/test_checkpoint.py::test_environments_go_on_from_their_state[atari/alien]",
    "training/test_checkpoint.py::test_a_signal_stops_an_evaluation_soon",
    "training/test_checkpoint.py::test_torture_for_a_while",
    "training/test_compile.py::test_a_compiled_run_tells_what_compiling_took",
    "training/test_compile.py::test_where_nothing_compiles_the_run_goes_on",
    "training/test_loop.py::test_control_runs_pass_their_phases_repeatably[DrQv2Config]",
    "training/test_loop.py::test_control_runs_pass_their_phases_repeatably[RADConfig]",
    "training/test_loop.py::test_control_runs_pass_their_phases_repeatably[SACConfig]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[dqn]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[first layer, uint4]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[first layer]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[frozen before learning]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[prioritized]",
    "training/test_loop.py::test_every_kind_of_run_ends_well[unlimited]",
    "training/test_loop.py::test_what_an_update_costs_less",
    "training/test_rehearsal.py::test_a_run_never_takes_more_than_it_promised",
    "training/test_rehearsal.py::test_an_automatic_freeze_can_be_rehearsed",
    "training/test_rehearsal.py::test_the_rehearsal_finds_how_large_the_replay_can_be",
    "training/test_rundir.py::test_a_pipe_is_not_waited_for[resume-blob",
    "training/test_rundir.py::test_a_pipe_is_not_waited_for[resume-ended",
    "training/test_rundir.py::test_a_pipe_is_not_waited_for[resume-manifest",
    "training/test_rundir.py::test_a_run_that_is_stopped_with_a_failed_environment_is_saved[hung]",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen after]",
    "training/test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[never]",
    "training/test_rundir.py::test_a_simulator_that_fails_in_an_evaluation",
    "training/test_rundir.py::test_an_environment_that_dies_while_something_is_due_is_started_anew[a checkpoint]",
    "training/test_rundir.py::test_damage_for_a_while",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[dangling-agent",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[link-config",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[link-curves",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[second name-agent",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[second name-config",
    "training/test_rundir.py::test_nothing_is_written_through_another_name[second name-curves",
    "training/test_rundir.py::test_settings_between_a_stop_and_its_resume[change10",
    "training/test_rundir.py::test_settings_between_a_stop_and_its_resume[change12",
    "training/test_rundir.py::test_settings_between_a_stop_and_its_resume[change15",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[curl]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[dqn]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[drqv2]",
    "training/test_rundir.py::test_the_seam_may_move_until_the_freeze[sac]",
    "training/test_wandb.py::test_metrics_are_those_of_the_run",
    "training/test_transfer.py::test_a_run_with_anothers_encoder[encoder]",
)

# The files whose tests take longest, longest first: begun last, one of them would keep one core busy alone.
LONGEST = (
    "training/test_checkpoint.py", "training/test_rundir.py", "commands/test_console.py", "integrations/test_torchrl.py",
    "integrations/test_tianshou.py", "experiments/test_sweep.py", "examples/test_cleanrl.py", "integrations/test_sb3.py",
    "experiments/test_cluster.py", "test_convergence.py", "training/test_rehearsal.py", "agents/test_actor_critics.py",
    "experiments/test_inspect.py", "integrations/test_lerobot.py", "test_docs.py", "experiments/test_report.py",
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave files unread of which `make test` would run no test: to import another library takes seconds."""
    name = collection_path.relative_to(Path(__file__).parent).as_posix() if collection_path.suffix == ".py" else ""
    return True if config.option.markexpr == "not slow" and name in SLOW else None


NAMED = pytest.StashKey[set[str]]()  # what of `SLOW` names a test


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that `SLOW` names, and begin with the longest files."""
    place = {name: i for i, name in enumerate(LONGEST)}
    named = config.stash[NAMED] = set()
    for item in items:
        test = item.nodeid.removeprefix("tests/")
        if slow := [name for name in SLOW if test.startswith(name)]:
            item.add_marker("slow")
            named.update(slow)
    if SLOW_UNTIL is not None and config.option.markexpr == "slow":  # not always the same come last, and find no time
        names = sorted({item.nodeid.partition("::")[0] for item in items})
        place = {name.removeprefix("tests/"): i for i, name in enumerate(random.Random(SLOW_UNTIL).sample(names, len(names)))}
    items.sort(key=lambda item: place.get(item.nodeid.removeprefix("tests/").partition("::")[0], len(place)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a slow test when its time is over, and say so."""
    checks_the_list = item.nodeid.startswith("tests/test_slow.py")
    if SLOW_UNTIL is not None and time.time() > float(SLOW_UNTIL) and item.get_closest_marker("slow") and not checks_the_list:
        pytest.skip("no time was left for it before SLOW_UNTIL")


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
