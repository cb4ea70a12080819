"""Matches: what is in truth of one thing, by any chain of links."""

import numpy as np

from data_jobs.items import Record
from data_jobs.matches import Matches, components
from data_jobs.text import text_key


def match(image: str, text: str, group: str | None = None) -> Record:
    key = text_key(text)
    return Record("f.csv", 2, f"/photos/{image}", text, 1, group or key, group or key)


def mismatch(image: str, text: str, group: str | None = None) -> Record:
    return Record("f.csv", 2, f"/photos/{image}", text, 0, group, text_key(text))


def things_of(*records: Record) -> list[int]:
    """The thing of each match, numbered in order of first appearance."""
    matches = Matches.of(records)
    things = matches.things[matches.texts].tolist()
    order = list(dict.fromkeys(things))
    return [order.index(thing) for thing in things]


def test_chains_of_links_make_components() -> None:
    numbers = components([(1, 2), (3, 4), (5, 6), (2, 3)])
    assert numbers[1] == numbers[2] == numbers[3] == numbers[4]
    assert numbers[5] == numbers[6] != numbers[1]
    assert components([]) == {}


def test_a_long_chain_is_one_component() -> None:
    assert set(components((n, n + 1) for n in range(20_000)).values()) == {0}


def test_texts_that_a_reader_calls_equal_are_one_thing() -> None:
    assert things_of(match("a", "كيك شكلاتي"), match("b", "کیک شکلاتی"), match("c", "ماگ")) == [0, 0, 1]
    assert things_of(match("a", "A red mug."), match("b", "a red mug"), match("c", "a red hat")) == [0, 0, 1]
    assert things_of(match("a", "می‌خورم"), match("b", "می خورم")) == [0, 0]
    assert things_of(match("a", "!!!"), match("b", "???")) == [0, 1]  # no letters say nothing


def test_group_and_picture_link_texts() -> None:
    assert things_of(match("a", "mug", "g"), match("b", "cup", "g"), match("c", "hat", "h")) == [0, 0, 1]
    assert things_of(match("a", "mug"), match("a", "cup"), match("c", "hat")) == [0, 0, 1]
    chain = [match("a", "mug"), match("a", "cup"), match("b", "cup"), match("b", "beaker"), match("c", "hat")]
    assert things_of(*chain) == [0, 0, 0, 0, 1]


def test_a_match_links_its_picture_and_its_text_whatever_their_groups() -> None:
    records = [Record("f", 1, "/a", "mug", 1, "x", "y"), match("b", "cup", "x"), match("c", "hat", "y")]
    assert things_of(*records) == [0, 0, 0]
    assert things_of(*records[1:]) == [0, 1]


def test_a_group_on_a_mismatch_says_what_its_picture_shows() -> None:
    records = [match("a", "mug"), match("b", "cup", "g"), mismatch("a", "hat", "g"), match("c", "hat")]
    assert things_of(*records) == [0, 0, 1]
    assert things_of(match("a", "mug"), mismatch("a", "hat"), match("c", "hat")) == [0, 1]


def test_texts_are_distinct_and_come_from_matches() -> None:
    records = [
        mismatch("a", "sofa"),
        match("a", "mug"),
        match("b", "hat"),
        match("c", "MUG"),
        mismatch("c", "hat"),
    ]
    matches = Matches.of(records)
    assert matches.rows == [1, 2, 3]
    keys = sorted([text_key("mug"), text_key("hat")])
    assert [f"{key:016x}" for key in matches.keys.tolist()] == keys
    assert matches.keys.dtype == np.uint64
    mug, hat = keys.index(text_key("mug")), keys.index(text_key("hat"))
    assert matches.texts.tolist() == [mug, hat, mug]
    assert (matches.sources[mug], matches.sources[hat]) == (1, 2)
    assert matches.known == [frozenset(), frozenset(), frozenset({hat})]  # sofa is nobody's text


def test_equal_rows_have_names_of_their_own() -> None:
    matches = Matches.of([match("a", "mug"), match("a", "mug"), match("a", "hat")])
    assert len(set(matches.names)) == 3


def test_nothing_in_nothing_out() -> None:
    matches = Matches.of([mismatch("a", "mug")])
    assert (matches.rows, matches.names, matches.sources) == ([], [], [])
    assert matches.texts.shape == matches.keys.shape == matches.things.shape == (0,)
