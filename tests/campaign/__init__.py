"""A campaign against the library: hostile files, failing systems, interrupts and kills.

``python -m tests.campaign --minutes 5 --seed 1`` makes case after case, runs operations on each in
child processes, and judges the outcome by what plain h5py and scipy make of the same file. A crash,
a hang, a wrong answer, an error that is not the library's own, and whatever is left behind are
findings: each is made as small as it gets and stored with the command that shows it again.

`cases` draws; `sources`, `bits`, `structures` and `filters` make files; `honest` reads them;
`operations` is the table of what is done to them and `trials` of what is done meanwhile; `child`
does it in a process of its own that `pool` keeps; `judge` says what came of it; `minimise` makes it
smaller; `records` keeps it; `run` puts all together.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
if str(TESTS) not in sys.path:  # where the helpers of the tests are
    sys.path.insert(0, str(TESTS))
