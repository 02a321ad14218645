"""Who holds a folder, and what a link to one is."""

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
