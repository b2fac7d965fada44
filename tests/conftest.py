"""For all tests: one thread, with which small networks are fastest and numbers do not depend on the machine's cores."""

import signal
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)
for number in (signal.SIGINT, signal.SIGHUP):  # a shell's background job, or nohup, ignores them, and all that it starts does
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

# Tests that `make test` leaves to `make test-all`: those that take a minute, and of several alike all but some.
SLOW = (
    "test_cluster.py::test_runs_of_a_dead_node",
    "test_rundir.py::test_damage_for_a_while",
    "test_checkpoint.py::test_torture_for_a_while",
    "test_sweep.py::test_stopped_in_the_middle[15]",
    "test_sweep.py::test_two_sweeps_share_their_runs",
    "test_report.py::test_a_film_that_cannot_be_made",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, once]",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[curl, often]",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[sac]",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, once]",
    "test_checkpoint.py::test_a_run_that_branches_off_another_is_the_run_from_its_beginning[auto]",
    "test_checkpoint.py::test_an_environment_that_fails_is_started_anew_once[raises]",
    "test_actor_critics.py::test_a_task_on_tiny_images_is_solved_with_a_freeze_halfway[drqv2]",
    "test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[never-",
    "test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen before-uniform]",
    "test_rundir.py::test_the_seam_may_move_until_the_freeze[sac]",
    "test_rundir.py::test_the_seam_may_move_until_the_freeze[rad]",
    "test_rundir.py::test_the_seam_may_move_until_the_freeze[drqv2]",
    "test_terminal.py::test_a_terminal_of_any_width[0]",
    "test_train.py::test_every_kind_of_run_ends_well[first layer]",
    "test_train.py::test_control_runs_pass_their_phases_repeatably[RADConfig]",
    "test_converge.py::test_measuring_disturbs_nothing",
    "test_compile.py::test_where_nothing_compiles_the_run_goes_on",
    "test_compile.py::test_a_compiled_run_tells_what_compiling_took",
    "test_checkpoint.py::test_a_killed_run_goes_on_from_its_newest_checkpoint",
    "test_terminal.py::test_a_run_ends_whoever_listens[{} 2>&-]",
    "test_terminal.py::test_a_run_ends_whoever_listens[env -u TERM",
    "test_train.py::test_every_kind_of_run_ends_well[dqn]",
    "test_train.py::test_every_kind_of_run_ends_well[first layer, uint4]",
    "test_train.py::test_control_runs_pass_their_phases_repeatably[SACConfig]",
    "test_train.py::test_what_an_update_costs_less",
    "test_converge.py::test_a_picture_of_the_signals",
    "test_checkpoint.py::test_signals_stop_a_run_soon_with_a_checkpoint[2]",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[drqv2]",
    "test_checkpoint.py::test_a_run_in_pieces_is_the_whole_run_bit_for_bit[rainbow, uint4]",
    "test_report.py::test_every_chart_is_drawn",
    "test_report.py::test_a_sweep_that_goes_on",
    "test_sweep.py::test_a_run_whose_process_is_killed_goes_on",
    "test_sweep.py::test_one_failure_does_not_stop_the_others",
    "test_terminal.py::test_a_user_without_a_home_can_train_and_compile",
    "test_analyze.py::test_the_papers_figures",
    "test_converge.py::test_an_automatic_freeze_in_pieces",
    "test_converge.py::test_the_latest_is_met",
    "test_rundir.py::test_a_run_that_kept_its_last_checkpoint_trains_longer[frozen after-uniform]",
    "test_seer.py::test_a_freeze_of_50000_steps",
    "test_terminal.py::test_a_run_directory_need_not_be_utf_8",
    "test_terminal.py::test_a_run_directory_is_printed_as_it_is",
    "test_train.py::test_every_kind_of_run_ends_well[unlimited]",
    "test_transfer.py::test_a_run_with_anothers_encoder[encoder]",
    "test_export.py::test_the_file_acts_like_the_agent[drqv2",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `SLOW` names."""
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def denormals() -> Iterator[None]:
    """A run flushes them for the rest of its process, which hypothesis rightly refuses to work with."""
    yield
    torch.set_flush_denormal(False)
