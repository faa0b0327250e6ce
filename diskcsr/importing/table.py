"""The kinds of sources that are imported: a row each."""

from pathlib import Path

from ..errors import FormatError
from ..storage.formats.others import kind_of
from .dense import DENSE
from .imported import Kind, SourceOptions
from .market import MARKET, TENX, find_matrix
from .npz import NPZ
from .svmlight import SVMLIGHT
from .tables import CSV, PARQUET

__all__ = ["find_kind", "kinds"]

KINDS = (MARKET, TENX, CSV, PARQUET, SVMLIGHT, NPZ, DENSE)
_BY_NAME = {kind.name: kind for kind in KINDS} | {"hdf5": None}


def kinds() -> list[str]:
    """What ``source_kind=`` may be."""
    return list(_BY_NAME)


def find_kind(path: Path, name: str | None, said: SourceOptions) -> Kind | None:
    """Tell of what kind a source is; None for what `diskcsr.open` opens.

    Parameters
    ----------
    path : Path
    name : str or None
        What the user says it is. None: its own name tells, or else how it begins.
    said : SourceOptions
        Checked: nothing may be said that does not go with the kind.

    Raises
    ------
    ValueError
        When no kind has that name, or something was said that does not go with it.
    """
    if name is not None and name not in _BY_NAME:
        known = ", ".join(map(repr, _BY_NAME))
        raise ValueError(f"source_kind= must be one of {known}, not {name!r}")
    kind = _told(path) if name is None else _BY_NAME[name]
    takes = ("source_name",) if kind is None else (*kind.takes, "shape", "dtype", "duplicates")
    refused = [one for one in said.given if one not in takes]
    if refused:
        what = "a sparse matrix in HDF5" if kind is None else f"{kind.name} ({kind.about})"
        raise ValueError(f"{', '.join(f'{one}=' for one in refused)}: not for {what}: {path}")
    return kind


def _told(path: Path) -> Kind | None:
    if path.is_dir():
        if find_matrix(path) is not None:
            return TENX
        if any(path.glob("*.parquet")):
            return PARQUET
        raise FormatError(f"{path}: a folder without matrix.mtx, matrix.mtx.gz or *.parquet")
    return _BY_NAME.get(kind_of(path) or "hdf5")
