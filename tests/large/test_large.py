"""The checks of `python -m tests.large`, in sizes that a test may have; times are not judged here."""

import pytest
from tests.large.measuring import in_own_process


def failed(check, **sizes):
    found = in_own_process(check, **sizes)
    assert found
    return [one for one in found if not one["passed"] and one["unit"] not in ("s", "share of time")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "sizes"),
    [
        ("many_rounds", {"count": 300}),
        ("adapter_of_8b", {"layers": 2, "steps": 3}),
        ("high_rank", {"rank": 256, "hidden": 128}),
        ("long_texts", {"characters": [100_000]}),
        ("many_rows", {"count": 200_000, "kinds": ["jsonl"]}),
    ],
)
def test_large_things_fit(check, sizes):
    assert failed(check, **sizes) == []
