"""An evaluation whose files do not fit each other is refused when it is read, not when it is shown."""

import json

import pytest

from grasp_lora.errors import GraspError
from grasp_lora.workspace.records import Done
from grasp_lora.workspace.rows import Answer, Row

ROW = Row("merge", 42, 2.0, [1.0, 3.0], {}, [Answer("a", "", "x", ["y"])], {"merge": {"seconds": 1.0}})


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("scores.json", lambda text: text, None),
        ("scores.json", lambda text: {**text, "groups": ["p", "q", "r"]}, "3 groups of 2 rows"),
        ("cost.json", lambda text: {"stages": {"merge": {"seconds": "long"}}}, "a cost that is no number"),
        ("cost.json", lambda text: {"stages": {"merge": {"minutes": 1}}}, "minutes"),
        ("cost.json", lambda text: {"stages": {"merge": {"seconds": 10**400}}}, "too large"),
        ("scores.json", lambda text: {**text, "made_by": ["a" * 256]}, "no folder is called aaaa"),
        ("scores.json", lambda text: {**text, "method": "a" * 256}, "no folder is called aaaa"),
        ("scores.json", lambda text: {**text, "seed": 10**300}, "no folder is called seed1000"),
        ("scores.json", lambda text: {**text, "adapter": "a/" * 1001}, "no folder is called a/a/"),
        ("predictions.jsonl", lambda text: {**text, "references": []}, "the answer to a has no reference"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, file, change, said):
    folder = tmp_path / "merge/seed42"
    folder.mkdir(parents=True)
    ROW.write(folder)
    path = folder / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    if said is None:
        assert Row.read(folder).answers == ROW.answers
        return
    with pytest.raises(GraspError, match=f"holds no evaluation that can be read .*{said}.*--force"):
        Row.read(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [('{"seconds": 1', "Invalid JSON: EOF while"), ('{"seconds": "x"}', "seconds: Input should be")],
)
def test_a_fault_is_said_in_words(tmp_path, content, said):
    (tmp_path / Done.FILE).write_text(content)
    with pytest.raises(GraspError, match=rf"done\.json is damaged \({said}[^\n]*\): make that") as error:
        Done.read(tmp_path)
    assert "pydantic" not in str(error.value)
