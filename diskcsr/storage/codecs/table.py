"""The codecs there are, by HDF5's id of the filter."""

from collections.abc import Iterable

from . import libraries
from .codec import Codec, Preset

__all__ = ["CODECS", "faster_decoders", "find_preset", "preset_names", "register"]

#: The package fills it with the codecs of its modules.
CODECS: dict[int, Codec] = {}


def register(codec: Codec) -> None:
    """Make a codec known: from now on its filter is read, written and checked.

    Raises
    ------
    ValueError
        When there is a codec with this id, or a preset of this name.
    """
    if codec.id in CODECS:
        raise ValueError(f"filter {codec.id} is {CODECS[codec.id].name} already")
    if codec.preset is not None and codec.preset.name in preset_names():
        raise ValueError(f"compression={codec.preset.name!r} is taken already")
    CODECS[codec.id] = codec


def preset_names() -> list[str | None]:
    """List what ``compression=`` may be, first what every reader of HDF5 files reads."""
    with_preset = [codec for codec in CODECS.values() if codec.preset is not None]
    with_preset.sort(key=lambda codec: codec.plugin != "")
    return [None, "raw", *(codec.preset.name for codec in with_preset if codec.preset)]


def find_preset(compression: str | None) -> tuple[Codec, Preset] | None:
    """Return the codec and the preset of this name; None for arrays without a filter.

    Raises
    ------
    ValueError
        When there is none of this name.
    """
    if compression in (None, "raw"):
        return None
    for codec in CODECS.values():
        if codec.preset is not None and codec.preset.name == compression:
            return codec, codec.preset
    known = ", ".join(repr(name) for name in preset_names())
    raise ValueError(f"compression must be one of {known}, not {compression!r}")


def faster_decoders(filters: Iterable[int]) -> list[str]:
    """Say for which of these filters a library that is not installed would be faster."""
    codecs = [CODECS[id] for id in sorted(set(filters)) if id in CODECS]
    return [
        f"{codec.slow} (pip install diskcsr[{codec.extra}])"
        for codec in codecs
        if codec.slow and libraries.find(codec.libraries[0]) is None
    ]
