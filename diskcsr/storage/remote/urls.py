"""What is a URL, and what of one may be shown."""

import os
import re
from typing import Any, NoReturn

__all__ = ["check_options", "is_url", "refuse_remote", "shown_url"]

_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*::)*[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def is_url(file: Any) -> bool:
    """Whether something is a URL, as fsspec has them, also behind caches: ``cache::https://...``.

    >>> is_url("s3://bucket/m.h5"), is_url("simplecache::https://host/m.h5"), is_url("m.h5")
    (True, True, False)
    """
    return isinstance(file, str) and _URL.match(file) is not None


def shown_url(url: str) -> str:
    """Return a URL as it may be shown: passwords and signatures are left out.

    >>> shown_url("https://me:secret@host/m.h5?signature=12")
    'https://host/m.h5'
    """
    return re.sub(r"://[^/@]*@", "://", url.partition("?")[0])


def refuse_remote(url: str, what: str) -> NoReturn:
    """Raise `ValueError`, as `what` works on files at hand."""
    raise ValueError(
        f"{what} needs a file on this machine, not {shown_url(url)}: download it first"
    )


def check_options(options: dict[str, Any] | None, file: Any) -> None:
    """Raise `ValueError` where there are options of a server and the file is on none."""
    if options is not None and not is_url(file):
        name = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else file
        raise ValueError(f"storage_options are for URLs, and {name!r} is none")
