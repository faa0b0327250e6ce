"""Writers that are killed at random moments: the file holds the state before or after the call."""

import os

import pytest
from kills import KINDS, kill

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]
KILLS = 4  # of each kind; bench/kill.py does a thousand


@pytest.mark.parametrize("name", KINDS)
def test_before_or_after(tmp_path, name):
    found = kill(name, tmp_path / "killed", KILLS, seed=len(name))
    assert found["kills"] == KILLS
    assert found["failures"] == 0
    assert found["before"] + found["between"] + found["after"] == KILLS
    assert found["between"] == 0 or "iterable" in name


@pytest.mark.parametrize("name", KINDS)
def test_what_is_done_is_told_apart(tmp_path, name):
    """Each call is one step, so that a state that was lost would be seen."""
    kind = KINDS[name](tmp_path)
    kind.start()
    assert kind.state() == 0
    call = kind.caller()
    for n in range(2):
        call(n * kind.steps)
    del call
    assert kind.state() == 2 * kind.steps
