"""Memory that runs out: it is said to have, nothing stays, and a second attempt works."""

import os

import interrupted
import out_of_memory
import pytest

import diskcsr

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="it compiles"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]
#: Of the allocations of an operation every so many-th is refused, beginning with another for each;
#: ``python tests/out_of_memory.py`` refuses each. It has those that write and that load, too.
STEP = 193
READS = ["A[i, j]", "A[i]", "A[rows]", "A[:, columns]", "A[ix]", "iter_blocks", "batches", "repr"]
TRIED = [(kind, file) for kind in READS for file in out_of_memory.FILES]
TRIED += [(kind, "") for kind in interrupted.KINDS]


@pytest.fixture(scope="module", autouse=True)
def loaded():
    with diskcsr.options.set(num_threads=1):
        out_of_memory.warm_up()
        yield


@pytest.mark.parametrize(("kind", "file"), TRIED)
def test_a_shortage_is_told_and_leaves_nothing(kind, file):
    first = TRIED.index((kind, file)) % STEP
    found = list(out_of_memory.trials(kind, file, step=STEP, first=first))
    assert [what for what in found if what.startswith("!")] == []
