"""The report of a dataset as one HTML file: no script, no network, pictures and styles inside.

The skeleton (`pages/base.html.j2`, `pages/parts.html.j2`, `pages/report.css`) serves other reports as well: see
`environment`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from data_jobs import thumbnails
from data_jobs.findings import MOST_GROUPS
from data_jobs.thumbnails import Thumbnails

MOST_CHARACTERS = 300
"""Of a text, a message or a path; the page cuts longer ones."""
MOST_WITHOUT_PICTURE = 6
"""Rejects whose picture cannot be shown, after those that have one."""

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_REORDERING = re.compile("[\u202a-\u202e\u2066-\u2069]")


def write(target: Path, report: Mapping[str, Any], datasets: Mapping[str, Path]) -> None:
    """Write the page of `report` to `target`, with thumbnails from the dataset directories and the rejected files."""
    html = render(report, thumbnails=thumbnails.collect(report, datasets))
    target.write_text(html, encoding="utf-8")


def render(report: Mapping[str, Any], *, thumbnails: Thumbnails) -> str:
    """The page of a dataset's report: the counts of `dataset.finish` and the numbers of `survey.survey` in one mapping.

    Equal reports give equal pages: nothing in it depends on the time or the machine. Remarks that lost nothing are
    those of `codes` that the rejects do not account for.
    """
    cases = sorted(
        report["rejects"]["examples"],
        key=lambda case: (case["source"], case["image_path"]) not in thumbnails.rejects,
    )
    rejected = {entry["code"]: entry["count"] for entry in report["rejects"]["codes"]}
    notes = {code: count - rejected.get(code, 0) for code, count in sorted(report["codes"].items())}
    return (
        environment()
        .get_template("dataset.html.j2")
        .render(
            report=report,
            notes={code: count for code, count in notes.items() if count > 0},
            cases=cases[: len(thumbnails.rejects) + MOST_WITHOUT_PICTURE],
            most_groups=MOST_GROUPS,
            thumbnails=thumbnails,
        )
    )


def environment(*packages: str) -> Environment:
    """Jinja2 that finds the templates of `packages` (each with a folder `pages`) before those of data_jobs.

    Everything is escaped; an undefined name is an error. The filters are the functions below.
    """
    loaders = [PackageLoader(package, "pages") for package in (*packages, "data_jobs")]
    found = Environment(
        loader=ChoiceLoader(loaders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number,
        "percent": percent,
        "shown": shown,
        "spelled": spelled,
        "path": path,
        "tail": tail,
        "bars": bars,
    }
    return found


def number(value: int) -> str:
    """`1234567` -> `1,234,567`."""
    return f"{value:,}"


def percent(part: int, whole: int) -> str:
    """The share with one decimal; 0 % and 100 % only where that is exact."""
    if part == 0 or part == whole:
        return f"{100 * bool(part)} %"
    share = 100 * part / whole
    if share < 0.1:
        return "under 0.1 %"
    return "over 99.9 %" if share > 99.9 else f"{share:.1f} %"


def shown(text: object, most: int = MOST_CHARACTERS) -> str:
    """`text` for the page: at most `most` characters, and a replacement character for what HTML cannot hold."""
    written = str(text)
    cut = written if len(written) <= most else written[:most].rstrip("…") + "…"
    return _CONTROLS.sub("\ufffd", cut)


def spelled(text: str) -> str:
    """`text` with the marks that reorder letters spelled out: for paths and messages, where they can only deceive."""
    return _REORDERING.sub(lambda mark: f"[U+{ord(mark.group()):04X}]", text)


def path(address: str, most: int = MOST_CHARACTERS) -> str:
    """A path for the page: cut in the middle, so that the name stays."""
    half = most // 2
    cut = address if len(address) <= most else f"{address[:half]}…{address[-half:]}"
    return shown(spelled(cut), most=10 * most)


def tail(address: str) -> str:
    """The file's name and its folder's, of a path for the page: `/data/fruit/apple/1.jpg` -> `apple/1.jpg`."""
    return path("/".join(address.split("/")[-2:]), 80)


def bars(histogram: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bars of a histogram as {"label", "count", "width"}, width in percent of the largest; empty ends are left out."""
    filled = [index for index, bar in enumerate(histogram) if bar["count"]]
    if not filled:
        return []
    kept = histogram[filled[0] : filled[-1] + 1]
    largest = max(bar["count"] for bar in kept)
    return [
        {
            "label": f"{bar['from']:,} to {bar['to'] - 1:,}" if bar["to"] else f"{bar['from']:,} and more",
            "count": bar["count"],
            "width": round(100 * bar["count"] / largest, 2),
        }
        for bar in kept
    ]
