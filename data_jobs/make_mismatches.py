"""Matching pairs -> the same with mismatches, random and hard ones, for training and for honest tests.

    python -m data_jobs.make_mismatches --csv matches.csv --hard-fraction 0.5 --seed 0 --output pairs.csv

Reads `image_path,text,label[,group_id,category,...]`. Every match is written as it is, and after it the same
picture with another row's text, label 0 and a `mismatch_kind` (random or hard); its other cells are the picture's. Rows
of label 0 are kept, and their pairs are not made again.

A hard text is of the same category (`--hard category`), spelt like the picture's own (`--hard text`), or close to the
picture for a model (`--hard embedding`; to its own text where the file has no pictures):

    python -m train_jobs.embed --model DIR --csv matches.csv --output vectors.parquet
    python -m data_jobs.make_mismatches --csv matches.csv --embeddings vectors.parquet --output pairs.csv

Never chosen is a text that fits in truth: one that differs in no letter or digit, one of the same group_id, one of the
same picture, and what a chain of these links. No picture is opened; two files with one picture are two pictures.
What describes one product in other words is told only by a group_id, which hard mismatches need most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_jobs import artefacts, command, likeness, mismatches, schema
from data_jobs.embeddings import Embeddings, image_key
from data_jobs.errors import InputError
from data_jobs.items import Reject
from data_jobs.matches import Matches
from data_jobs.mismatches import Draw, Texts
from data_jobs.pair_table import Cells, PairTable, to_csv
from data_jobs.rows import reject_row
from data_jobs.text import text_key

KIND = "mismatch_kind"
Hard = Literal["category", "text", "embedding"]


@dataclass(frozen=True)
class MakeMismatches:
    csv: str
    """CSV with the columns image_path,text,label and optionally group_id and a category."""
    output: Path
    """CSV to write: the input's columns and mismatch_kind."""
    hard_fraction: float = 0.5
    """Share of the mismatches, 0 to 1, that shall be hard."""
    hard: Hard | None = None
    """What makes a mismatch hard (default: embedding with --embeddings, else category if any has two products, else
    text)."""
    per_match: int = 1
    """Mismatches for each match."""
    category_column: str = "category"
    """Column that names the category."""
    nearest: int = 10
    """With --hard text or embedding: a hard text is one of this many nearest."""
    embeddings: Path | None = None
    """With --hard embedding: file of train_jobs.embed for this CSV."""
    image_base_path: str | None = None
    """Folder that relative image paths start from, in the output too (default: the CSV's own; the output's paths are
    then relative to its own folder)."""
    seed: int = 0
    """Another seed, other mismatches."""
    overwrite: bool = False
    """Replace an earlier output."""


def run(config: MakeMismatches) -> dict[str, Any]:
    """Read, draw, write, print the counts and return them. Raises InputError."""
    _check(config)
    table = PairTable.read(config.csv, config.image_base_path)
    matches = Matches.of(table.records)
    if not matches.rows:
        raise InputError("no_matches", f"{config.csv} has no usable row of label 1.", "Add matching pairs.")
    if len(set(matches.things.tolist())) < 2:
        raise InputError(
            "one_group",
            f"All {len(matches.rows)} matches of {config.csv} describe the same thing.",
            "Add pairs of other products, or check group_id.",
        )
    hard, pools = _hard(config, table, matches) if config.hard_fraction else (None, None)
    drawn = mismatches.draw(
        matches, pools, hard_fraction=config.hard_fraction, per_match=config.per_match, seed=config.seed
    )
    config.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    artefacts.write_file(config.output.absolute(), _written(config, table, drawn))
    if table.rejects:
        rows = (
            {name: str(cell or "") for name, cell in reject_row(reject).items()} for reject in table.rejects
        )
        artefacts.write_file(_rejects_path(config.output).absolute(), to_csv(schema.REJECTS.names, rows))
    counts = {
        "matches": len(matches.rows),
        "kept_mismatches": len(table.records) - len(matches.rows),
        "asked": drawn.asked,
        "hard_asked": drawn.hard_asked,
        "hard": drawn.count("hard"),
        "random": drawn.count("random"),
        "hard_by": hard,
        "left_out": dict(Counter(reject.code for reject in table.rejects)),
    }
    _print(config, counts, drawn, table.rejects)
    return counts


def _rejects_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}.rejects.csv")


def _check(config: MakeMismatches) -> None:
    if Path(config.csv).absolute() == config.output.absolute():
        raise InputError(
            "bad_arguments", f"--output {config.output} is the input itself.", "Choose another --output."
        )
    for name in ("per_match", "nearest"):
        command.positive(name, getattr(config, name))
    if not 0 <= config.hard_fraction <= 1:
        raise InputError(
            "bad_arguments",
            f"--hard-fraction is {config.hard_fraction}; it must be 0 to 1.",
            "Give another --hard-fraction.",
        )
    if config.hard is not None and (config.hard == "embedding") == (config.embeddings is None):
        raise InputError(
            "bad_arguments",
            f"--hard is {config.hard} and --embeddings is {config.embeddings}.",
            "Give --embeddings with --hard embedding or without --hard.",
        )
    if config.output.is_dir() or (config.output.exists() and not config.overwrite):
        raise InputError(
            "output_exists", f"{config.output} exists.", "Choose another --output, or --overwrite a file."
        )


def _hard(config: MakeMismatches, table: PairTable, matches: Matches) -> tuple[Hard, list[Texts]]:
    """What makes a mismatch hard in this run, and for each match the texts that would be hard for it."""
    if config.hard in ("text", "embedding") or config.embeddings is not None:
        return "text" if config.hard == "text" else "embedding", _near(config, table, matches)
    cells = [table.cells[row].get(config.category_column.lower(), "") for row in matches.rows]
    if config.hard == "category" and not any(cells):
        raise InputError(
            "wrong_columns",
            f"{config.csv} has no categories in a column {config.category_column!r}; its columns are "
            f"{', '.join(table.columns)}.",
            "Name another --category-column, or use --hard text.",
        )
    pools = mismatches.same_category(matches, [text_key(cell) if cell else "" for cell in cells])
    if config.hard == "category" or any(
        len(np.unique(matches.things[pool])) > 1 for pool in _distinct(pools)
    ):
        return "category", pools
    return "text", _near(config, table, matches)


def _distinct(pools: list[Texts]) -> Iterable[Texts]:
    """Each pool once; matches of a category share theirs."""
    return {id(pool): pool for pool in pools}.values()


def _near(config: MakeMismatches, table: PairTable, matches: Matches) -> list[Texts]:
    """For each match the texts nearest to it, by spelling or by embedding."""
    words = [table.records[row].text for row in matches.sources]
    of_query = matches.texts  # [R] which query is each match's
    if config.embeddings is None:
        texts = queries = likeness.spelling(words)
    else:
        found = Embeddings.read(config.embeddings)
        texts = queries = found.texts.of([text_key(text) for text in words], words)
        if found.images.place:
            paths = [image_key(table.records[row].image_path) for row in matches.rows]
            number = {path: n for n, path in enumerate(dict.fromkeys(paths))}
            queries = found.images.of(list(number), list(number))
            of_query = np.array([number[path] for path in paths], np.int64)
    things = np.empty(queries.shape[0], np.int64)
    things[of_query] = matches.things[matches.texts]
    near = likeness.nearest(queries, things, texts, matches.things, config.nearest)
    pools = [np.sort(row[row >= 0]) for row in near]
    return [pools[query] for query in of_query]


def _written(config: MakeMismatches, table: PairTable, drawn: Draw) -> str:
    """The output's content."""
    columns = [*table.columns, *([] if KIND in table.columns else [KIND])]
    made: dict[int, list[mismatches.Mismatch]] = {}
    for mismatch in drawn.mismatches:
        made.setdefault(mismatch.row, []).append(mismatch)

    folder = config.output.absolute().parent

    def rows() -> Iterator[Cells]:
        paths = None if config.image_base_path is not None else table.paths_from(folder)
        for row, cells in enumerate(table.cells):
            own = cells if paths is None else {**cells, "image_path": paths[row]}
            yield own
            for mismatch in made.get(row, ()):
                yield {
                    **own,
                    "text": table.cells[mismatch.text_row]["text"],
                    "label": "0",
                    KIND: mismatch.kind,
                }

    return to_csv(columns, rows())


def _print(config: MakeMismatches, counts: dict[str, Any], drawn: Draw, rejects: list[Reject]) -> None:
    by = f" (by {counts['hard_by']})" if counts["hard_by"] else ""
    print(
        f"{config.output}: {counts['matches']} matches, {counts['hard']} hard{by} and {counts['random']} random "
        f"mismatches made, {counts['kept_mismatches']} kept"
    )
    if counts["hard"] < drawn.hard_asked:
        where = "in their category" if counts["hard_by"] == "category" else "among the nearest"
        print(
            f"  of {drawn.hard_asked} hard mismatches asked, {counts['hard']} could be made; "
            f"matches with no other product {where}: {drawn.without_hard}"
        )
    if len(drawn.mismatches) < drawn.asked:
        print(
            f"  of {drawn.asked} mismatches asked, {len(drawn.mismatches)} could be made: too few other texts"
        )
    if rejects:
        print(f"  left out {len(rejects)} rows that cannot be read: {counts['left_out']}")
        for reject in rejects[:3]:
            print(f"    {reject.source}:{reject.line}: {reject.message} {reject.suggestion}")
        print(f"    all of them, with their reasons: {_rejects_path(config.output)}")


if __name__ == "__main__":
    command.main(MakeMismatches, run, __doc__)
