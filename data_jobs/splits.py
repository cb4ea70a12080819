"""Leakage-proof splits: a key goes to one split, on any machine and in any order."""

import hashlib
from collections.abc import Mapping


def split_of(key: str, shares: Mapping[str, float], seed: int = 0) -> str:
    """The split that `key` belongs to: all rows with one key land in one split.

    `shares` maps split names to fractions that add up to 1. The choice depends on nothing but the key, the
    shares and the seed, so any number of workers agrees without talking.
    """
    total = sum(shares.values())
    if abs(total - 1) > 1e-6:
        raise ValueError(f"The shares {dict(shares)} add up to {total}, not to 1.")
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if position < edge:
            return name
    return name
