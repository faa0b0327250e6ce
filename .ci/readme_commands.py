"""Print the shell commands of README.rst's "Two commands" block, one a line.

.ci/run executes exactly what this prints, so the README and what is tested cannot drift apart.
"""

import re
from pathlib import Path

BLOCK = re.compile(r"^\.\. code-block:: sh\n\n((?:    .*\n|\n)+)", re.MULTILINE)


def commands(text: str) -> list[str]:
    """Return the lines of the first ``sh`` code block of an .rst `text`."""
    match = BLOCK.search(text)
    if match is None:
        raise SystemExit("README.rst has no '.. code-block:: sh'")
    return [line.strip() for line in match.group(1).splitlines() if line.strip()]


if __name__ == "__main__":
    readme = Path(__file__).resolve().parent.parent / "README.rst"
    print("\n".join(commands(readme.read_text(encoding="utf-8"))))
