"""`parts.json`: what is written is read back, and damage is noticed."""

from pathlib import Path

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.merging import Part, read_parts, write_parts


def test_parts_round_trip(tmp_path: Path) -> None:
    assert read_parts(tmp_path) is None
    parts = {
        "model.layers.0.mlp.up_proj": (Part("en", 0, 8), Part("ar", 8, 12)),
        "lm_head": (Part("ar", 0, 4),),
    }
    write_parts(tmp_path, parts)
    assert read_parts(tmp_path) == parts
    assert [path.name for path in tmp_path.iterdir()] == ["parts.json"]
    lines = (tmp_path / "parts.json").read_text().splitlines()  # an indented file that people can read
    assert lines[:3] == ["{", ' "lm_head": [', "  {"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"lm_head": [{"name": "en"}]}', '{"lm_head": 3}'])
def test_damaged_parts_are_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "parts.json").write_text(text)
    with pytest.raises(GraspError, match=r"parts\.json"):
        read_parts(tmp_path)
