"""Splits: a key always lands in the same place, and the shares come out."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_jobs.splits import split_of

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


# Another answer would move rows of published datasets between train and test. Taken from
# `printf '0\0mug' | sha256sum`: the first 16 hex digits as a fraction of 16**16, here 0.959, 0.005, 0.859 and 0.710.
GOLDEN = {"mug": "test", "hat": "train", "watch": "val", "ماگ": "train"}


@pytest.mark.parametrize("key", GOLDEN)
def test_a_key_stays_where_it_is(key: str) -> None:
    assert split_of(key, SHARES) == GOLDEN[key]


def test_the_shares_come_out() -> None:
    counts = Counter(split_of(f"group-{i}", SHARES) for i in range(5000))
    for name, share in SHARES.items():
        assert counts[name] / 5000 == pytest.approx(share, abs=0.02)


def test_the_seed_makes_another_split() -> None:
    keys = [f"group-{i}" for i in range(200)]
    first, second = ([split_of(key, SHARES, seed) for key in keys] for seed in (0, 1))
    assert first != second


@given(st.text(), st.integers())
def test_every_key_has_a_split_with_a_share(key: str, seed: int) -> None:
    assert split_of(key, {"none": 0.0, "all": 1.0, "never": 0.0}, seed) == "all"
    assert split_of(key, SHARES, seed) in SHARES


@given(st.text(), st.floats(0, 1))
def test_a_larger_train_share_never_moves_a_key_out_of_train(key: str, share: float) -> None:
    larger = min(1.0, share + 0.1)
    if split_of(key, {"train": share, "val": 1 - share}) == "train":
        assert split_of(key, {"train": larger, "val": 1 - larger}) == "train"


@pytest.mark.parametrize("shares", [{"train": 0.8}, {"train": 0.8, "val": 0.3}, {}])
def test_shares_that_do_not_add_up_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="not to 1"):
        split_of("a", shares)
