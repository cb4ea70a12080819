"""What benchmarks.calm reads off the outcomes of requests and samples of memory: the rows of its table."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.calm_load import Outcome
from benchmarks.calm_service import Sample

FINE = ("200", "429")
"""Whatever else an answer is, or if there is none, the request has failed."""
AFTER_S = 10.0
"""Of requests after something was killed."""


@dataclass(frozen=True)
class Row:
    """A line of the table; `met` is None where there is no target."""

    part: str
    what: str
    found: str
    target: str = ""
    met: bool | None = None


def show(rows: Sequence[Row]) -> None:
    print("| | what | found | target | |\n|---|---|---|---|---|")
    for row in rows:
        outcome = "" if row.met is None else "met" if row.met else "MISSED"
        print(f"| {row.part} | {row.what} | {row.found} | {row.target} | {outcome} |", flush=True)


def quantile(outcomes: Sequence[Outcome], share: float, status: str = "200") -> float:
    """Seconds, of those with that status."""
    seconds = sorted(outcome.seconds for outcome in outcomes if outcome.status == status)
    return seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else math.nan


def ms(outcomes: Sequence[Outcome], status: str = "200") -> str:
    """p50 / p99 of those with that status."""
    return " / ".join(f"{1000 * quantile(outcomes, share, status):.0f}" for share in (0.5, 0.99))


def seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.1f} s"


def due(outcomes: Sequence[Outcome], begin: float, end: float) -> list[Outcome]:
    """Those that were due from `begin` to `end`, time.time()."""
    return [outcome for outcome in outcomes if begin <= outcome.due < end]


def in_phase(outcomes: Sequence[Outcome], phase: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.phase == phase]


def failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many, by status or kind of error."""
    return dict(Counter(outcome.status for outcome in outcomes if outcome.status not in FINE))


def recovered_after(outcomes: Sequence[Outcome], ended: float, bound: float) -> float:
    """Seconds from `ended` to the first second whose requests, and the next one's, have a p50 within `bound`."""

    def calm(second: int) -> bool:
        return quantile(due(outcomes, ended + second, ended + second + 1), 0.5) <= bound

    last = int(max(outcome.due for outcome in outcomes) - ended)
    return next((float(second) for second in range(last) if calm(second) and calm(second + 1)), math.inf)


def overload_rows(part: str, during: Sequence[Outcome], lasted: float, longest: float) -> list[Row]:
    """What became of the requests of an overload; `longest` is how many seconds one may take."""
    counts = Counter(outcome.status for outcome in during)
    told = sum(outcome.retry_after for outcome in during if outcome.status == "429")
    shares = {status: f"{counts[status]} ({counts[status] / len(during):.1%})" for status in FINE}
    slowest = quantile(during, 0.99)
    others = failures(during)
    return [
        Row(part, "accepted", f"{shares['200']}, {counts['200'] / lasted:.0f}/s"),
        Row(part, "accepted, p50 / p99 ms", ms(during), f"p99 within {longest:g} s", slowest <= longest),
        Row(part, "429; with Retry-After", f"{shares['429']}; {told}", "all with it", told == counts["429"]),
        Row(part, "429, p50 / p99 ms", ms(during, "429")),
        Row(part, "anything else", str(others or 0), "0", not others),
    ]


def memory_rows(
    part: str, samples: Sequence[Sample], begun: float, ended: float, most_growth: float
) -> list[Row]:
    """Before, at the most and in the end, of a load from `begun` to `ended`; flat is the last quarter to the second."""
    before = [sample for sample in samples if sample.at < begun][-1]
    rows = []
    for name in ("pss", "rss"):
        start, end = getattr(before, name), getattr(samples[-1], name)
        each = [(kind, max(getattr(s, name).get(kind, 0.0) for s in samples)) for kind in sorted(start)]
        told = [f"{kind} {start[kind]:.0f}/{peak:.0f}/{end.get(kind, 0):.0f}" for kind, peak in each]
        most = max(sum(getattr(sample, name).values()) for sample in samples)
        found = f"{_total(start):.0f}/{most:.0f}/{_total(end):.0f}: {'; '.join(told)}"
        rows.append(Row(part, f"{name.upper()} MB before/most/after", found))
    quarter = (ended - begun) / 4
    second, last = (
        statistics.median(
            _total(s.pss) for s in samples if begun + place * quarter <= s.at < begun + (place + 1) * quarter
        )
        for place in (1, 3)
    )
    target = f"<= {most_growth}"
    rows.append(
        Row(part, "PSS, last quarter to second", f"{last / second:.3f}", target, last / second <= most_growth)
    )
    return rows


def _total(by_kind: Mapping[str, float]) -> float:
    return sum(by_kind.values())


def killed_rows(part: str, outcomes: Sequence[Outcome], killed: float) -> list[Row]:
    """What a kill at that time.time() did to a steady load."""
    bad = [outcome for outcome in outcomes if outcome.status not in FINE]
    found = f"{len(bad)} of {len(outcomes)}"
    if bad:
        begin, end = min(o.due for o in bad) - killed, max(o.due for o in bad) - killed
        found += f" ({failures(outcomes)}, due {begin:.1f} to {end:.1f} s after)"
    refused = sum(outcome.status == "429" for outcome in outcomes)
    before, after = due(outcomes, 0, killed - 1), due(outcomes, killed - 1, killed + AFTER_S)
    worst = max((outcome.seconds for outcome in after), default=math.nan)
    return [
        Row(part, "failed", found, "0", not bad),
        Row(part, "429", str(refused)),
        Row(part, "p50 / p99 ms before", ms(before)),
        Row(
            part, f"p50 / p99 ms in the {AFTER_S:.0f} s after; the worst", f"{ms(after)}; {1000 * worst:.0f}"
        ),
    ]
