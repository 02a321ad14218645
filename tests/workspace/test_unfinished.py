"""What the folders of unfinished stages, and who made them, are taken for."""

import socket
import subprocess

import pytest

from grasp_lora.workspace.records import Begun, Done, Maker
from grasp_lora.workspace.unfinished import begun_in, is_over


@pytest.mark.parametrize("pid", [2**31, 2**70])
def test_a_process_whose_number_none_can_have_is_over(tmp_path, pid):
    Maker(pid, socket.gethostname(), "2026-01-01 00:00:00").write(tmp_path)
    assert is_over(tmp_path)


def test_of_a_process_on_another_machine_nobody_knows_that_it_is_over(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    for host, over in ((socket.gethostname(), True), ("elsewhere.invalid", False)):
        Maker(gone.pid, host, "2026-01-01 00:00:00").write(tmp_path)
        assert is_over(tmp_path) is over


def test_a_finished_stage_is_not_begun(tmp_path):
    begun = Begun("work", 2, {})
    begun.write(tmp_path)
    assert begun_in(tmp_path) == begun
    Done().write(tmp_path)
    assert begun_in(tmp_path) is None
