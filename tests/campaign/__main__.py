"""Run the campaign; as the package `campaign`, which is what its child processes know it as."""

import sys

from . import TESTS

if __name__ == "__main__":
    sys.path.insert(0, str(TESTS.parent))
    from campaign.run import main

    sys.exit(main())
