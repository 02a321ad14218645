"""A few hundred broken inputs of each kind; `python -m tests.hostile` tries many more."""

import pytest
from tests.hostile.kinds import KINDS
from tests.hostile.run import make_run
from tests.hostile.trying import Place, Tally, property_of

pytestmark = pytest.mark.filterwarnings("ignore")
INPUTS = {"run directories": 25, "adapter folders": 60, "config": 60, "cards": 60}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("hostile") / "run")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name.replace(" ", "_"))
def test_broken_input_is_refused_in_one_message_and_changes_nothing_outside(kind, run, tmp_path):
    tally = Tally()
    property_of(kind, Place(tmp_path, run, kind), tally, INPUTS.get(kind.name, 200))()
    assert tally.inputs >= 25
    assert tally.inputs < 60 or tally.mutated >= 0.3 * tally.inputs  # the first inputs are the simplest
    assert tally.accepted + tally.refused == tally.inputs
