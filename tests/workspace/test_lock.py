"""Who holds a folder, and what a link to one is."""

import fcntl
import os

import pytest

from grasp_lora.workspace.lock import hold, is_held


def test_a_folder_is_held_until_its_holder_ends(tmp_path):
    assert is_held(tmp_path) is False
    with hold(tmp_path) as held:
        assert held is True
        assert is_held(tmp_path) is True
        with hold(tmp_path) as again:
            assert again is False
    with hold(tmp_path) as held:
        assert held is True
    assert is_held(tmp_path / "gone") is False


def test_a_link_is_not_followed(tmp_path):
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    link.symlink_to(folder)
    with hold(folder):
        assert is_held(link) is False
    with pytest.raises(OSError, match="link"), hold(link):
        pass


def test_who_looks_is_in_nobodys_way(tmp_path):
    looking = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert is_held(tmp_path) is False
    os.close(looking)


def test_a_folder_whose_name_another_has_taken_meanwhile_is_not_held(tmp_path, monkeypatch):
    folder, lock = tmp_path / "folder", fcntl.flock
    folder.mkdir()

    def late(handle, how):
        folder.rename(tmp_path / "renamed")
        folder.mkdir()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with hold(folder) as held:
        assert held is False
