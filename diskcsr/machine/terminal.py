"""What the two command lines share: how they parse, end, and print tables."""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ..errors import DiskCSRError

__all__ = ["Parser", "called_as", "plain_table", "print_table", "run_program", "say"]

#: What users, files and systems can be to blame for; anything else is a defect, with a traceback.
BLAMELESS = (DiskCSRError, OSError, ValueError, KeyError, TypeError, MemoryError, ImportError)


_MODULE = "python -m "
#: Seconds between two lines that say what is done, where they stay.
_PATIENCE = 10.0
_spoken = time.monotonic()


class Parser(argparse.ArgumentParser):
    """An argument parser whose help keeps its line breaks and whose errors take one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        #: What lines about errors begin with.
        self.short = self.prog.removeprefix(_MODULE)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and where help is; exit with 2."""
        text = " ".join(message.split())
        print(f"{self.short}: error: {text}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def called_as(program: str, module: str) -> str:
    """Return what a program was called by: its own name, or ``python -m`` and its module's."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    as_module = spec is not None and spec.name in (module, f"{module}.__main__")
    return f"{_MODULE}{module}" if as_module else program


def run_program(
    prog: str, run: Callable[[], int], translate: Callable[[str], str] = lambda text: text
) -> int:
    """Run a command line's work; turn how it ends into an exit code and at most one line.

    Parameters
    ----------
    prog : str
        What that line begins with.
    run : callable
    translate : callable
        Says in the words of the command line what an error says in those of Python.

    Returns
    -------
    int
        What `run` returned; 2 after an error, 130 after an interrupt, 141 when nobody reads what
        is printed any more.
    """
    try:
        code = run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BLAMELESS as problem:
        say("")
        print(f"{prog}: error: {translate(_one_line(problem))}", file=sys.stderr)
        return 2
    return code


def _one_line(problem: BaseException) -> str:
    text: Any = problem
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        text = f"{os.fsdecode(problem.filename)}: {problem.strerror}"
    elif isinstance(problem, KeyError) and problem.args:
        text = problem.args[0]
    return " ".join(str(text).split()) or type(problem).__name__


def say(text: str) -> None:
    """Show what is done at the moment: to people on one line that is written over.

    Where standard error is no terminal, on a line now and then, and none in the first seconds.
    """
    global _spoken
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:78]}", end="", file=sys.stderr, flush=True)
    elif text and time.monotonic() - _spoken > _PATIENCE:
        print(text, file=sys.stderr, flush=True)
        _spoken = time.monotonic()


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> None:
    """Print a table: by rich where it is installed and someone looks, else in plain text.

    Parameters
    ----------
    head : sequence of str
    rows : sequence of sequences of str
    numbers_from : int
        The first column that is aligned to the right.
    """
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table()
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number >= numbers_from else "left")
        for row in rows:
            table.add_row(*map(escape, row))
        Console().print(table)
    else:
        print(plain_table(head, rows, numbers_from))


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """Return a table as lines of plain text.

    Examples
    --------
    >>> print(plain_table(("name", "n"), [("a", "10"), ("b", "9")], 1))
      name   n
      a     10
      b      9
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if number >= numbers_from else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return "\n".join(lines)
