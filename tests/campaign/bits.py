"""Bytes of a file that are not what was written."""

import numpy as np

__all__ = ["apply", "draw", "single_bits"]

#: Where HDF5's own structures begin.
_SIGNATURES = (
    b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB",
    b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB", b"EASB", b"FSHD",
)  # fmt: skip
_NUMBERS = [0, 1, 7, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]


def _places(raw: bytes) -> np.ndarray:
    """Where something is, and just behind it: long runs of zeros are free space."""
    filled = np.flatnonzero(np.frombuffer(raw, np.uint8))
    return np.unique(np.minimum(np.concatenate([filled, filled + 1]), len(raw) - 1))


def _structures(raw: bytes) -> list[int]:
    found = []
    for signature in _SIGNATURES:
        at = -1
        while (at := raw.find(signature, at + 1)) >= 0:
            found.append(at)
    return found


def draw(rng: np.random.Generator, raw: bytes) -> list[list]:
    """Draw what is done to the bytes of a file, mostly little."""
    places, structures = _places(raw), _structures(raw)

    def place() -> int:
        if structures and rng.integers(3) == 0:  # in the first bytes of a structure
            return min(int(rng.choice(structures)) + int(rng.integers(96)), len(raw) - 1)
        return int(rng.choice(places))

    def one() -> list:
        what = str(rng.choice(_LIKELY))
        length = int(rng.choice([1, 2, 4, 8, 16, 64, 512]))
        if what == "flip":
            return [what, place(), int(rng.integers(8))]
        if what == "byte":
            return [what, place(), int(rng.integers(256))]
        if what == "number":
            return [what, place(), int(rng.choice([1, 2, 4, 8])), int(rng.integers(len(_NUMBERS)))]
        if what == "cut":
            return [what, int(rng.integers(len(raw)))]
        if what == "zero":
            return [what, place(), length]
        if what == "garbage":
            return [what, place(), length, int(rng.integers(1 << 16))]
        if what == "swap":
            return [what, place(), place(), length]
        return [what, place(), place(), length]  # copy

    return [one() for _ in range(int(rng.choice([1, 1, 1, 1, 2, 3])))]


_RARE = ["cut", "zero", "garbage", "swap", "copy"]
_LIKELY = ["flip"] * 9 + ["byte"] * 4 + ["number"] * 4 + _RARE


def apply(raw: bytes, damage: list[list]) -> bytes:
    """Return the bytes as the steps leave them."""
    out = bytearray(raw)
    for what, *rest in damage:
        _STEPS[what](out, *rest)
    return bytes(out)


def _put(out: bytearray, at: int, some: bytes) -> None:
    """Overwrite, as far as there is something: what is cut off stays cut off."""
    some = some[: max(len(out) - at, 0)]
    out[at : at + len(some)] = some


def _flip(out: bytearray, at: int, bit: int) -> None:
    if at < len(out):
        out[at] ^= 1 << bit


def _number(out: bytearray, at: int, width: int, which: int) -> None:
    _put(out, at, (_NUMBERS[which] % 256**width).to_bytes(width, "little"))


def _cut(out: bytearray, length: int) -> None:
    del out[length:]


def _garbage(out: bytearray, at: int, length: int, seed: int) -> None:
    _put(out, at, np.random.default_rng(seed).bytes(length))


def _swap(out: bytearray, a: int, b: int, length: int) -> None:
    first, second = bytes(out[a : a + length]), bytes(out[b : b + length])
    _put(out, a, second)
    _put(out, b, first)


_STEPS = {
    "flip": _flip,
    "byte": lambda out, at, byte: _put(out, at, bytes([byte])),
    "number": _number,
    "cut": _cut,
    "zero": lambda out, at, length: _put(out, at, bytes(length)),
    "garbage": _garbage,
    "swap": _swap,
    "copy": lambda out, a, b, length: _put(out, b, bytes(out[a : a + length])),
}


def single_bits(raw: bytes, damage: list[list]) -> list[list] | None:
    """Say the same as flips of single bits; None where it is too many, or the length changed."""
    out = apply(raw, damage)
    if len(out) != len(raw):
        return None
    before, after = (np.frombuffer(some, np.uint8) for some in (raw, out))
    flips = [
        ["flip", int(at), bit]
        for at in np.flatnonzero(before != after)
        for bit in range(8)
        if int(before[at] ^ after[at]) >> bit & 1
    ]
    return flips if len(flips) <= 128 else None
