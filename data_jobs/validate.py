"""Check a catalogue without training on it: every row, every picture, balance, duplicates, contradictions, leakage.

    python -m data_jobs.validate --csv F [--image-base-path D] [--json]
    python -m data_jobs.validate --csv train.csv val.csv        # splits: what leaks from one to the other
    python -m data_jobs.validate --data D/train D/val           # datasets, whose pictures are checked already

Exit code 0: every row can be used (warnings may remain); 1: rows were rejected, or, with --strict, there are
warnings; 2: cannot run. --report-dir keeps report.html, report.json and rejects.csv.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_jobs import cautions, command, dataset, files, formats, images, page, session, stream, survey
from data_jobs.artefacts import publish, refuse_overwrite, write_file
from data_jobs.errors import InputError
from data_jobs.sources import Source

MARKER = "verdict.json"
IMAGE_SIZE = 256
"""As data_jobs.ingest's default, so that both see the same near duplicates."""


@dataclass(frozen=True)
class Validate:
    csv: tuple[str, ...] = ()
    """CSV files with the columns image_path,text,label; several are taken as splits of one catalogue."""
    data: tuple[Path, ...] = ()
    """Dataset directories, instead."""
    persian_json: str | None = None
    """Folder of Persian JSON, instead."""
    image_folder: str | None = None
    """Folder of pictures with metadata.csv or metadata.jsonl, instead."""
    parquet: str | None = None
    """Parquet of pairs, instead."""
    image_base_path: str | None = None
    """Folder that relative image paths of --csv or --parquet start from (default: the file's own)."""
    max_pixels: int = images.MAX_PIXELS
    """Pictures with more pixels are rejected as decompression bombs."""
    json: bool = False
    """Print the report as JSON on stdout, and nothing else there."""
    strict: bool = False
    """Exit with 1 for warnings too."""
    report_dir: Path | None = None
    """Keep the report here."""
    overwrite: bool = False
    """Replace an earlier report in the report directory."""


def run(config: Validate) -> int:
    """Check, print the report and return the exit code. Raises InputError when nothing can be checked."""
    command.positive("max_pixels", config.max_pixels)
    if config.report_dir is not None:
        refuse_overwrite(config.report_dir, marker=MARKER, overwrite=config.overwrite)  # before the work
    with (
        tempfile.TemporaryDirectory(prefix="catalens-validate-") as scratch,
        _checked(config, Path(scratch)) as folders,
    ):
        report = _report(folders)
        problems = report["pairs"]["rejected"] or not (report["pairs"]["read"] or report["passages"]["read"])
        failed = bool(problems or (config.strict and report["warnings"]))
        print(json.dumps(report, indent=2, ensure_ascii=False) if config.json else _summary(report, folders))
        if config.report_dir is not None:
            with publish(config.report_dir, marker=MARKER, overwrite=config.overwrite) as target:
                _keep(target, report, folders, failed)
    return int(failed)


@contextmanager
def _checked(config: Validate, scratch: Path) -> Iterator[dict[str, Path]]:
    """The datasets to report on, by split name; raw sources are ingested into `scratch`."""
    others = (config.csv, config.persian_json, config.image_folder, config.parquet, config.image_base_path)
    if config.data and any(others):
        raise InputError(
            "bad_arguments",
            "--data was given beside another source.",
            "Ingest that source first (python -m data_jobs.ingest), then give both directories to --data.",
        )
    if config.data:
        names = _names([str(folder) for folder in config.data])
        yield dict(zip(names, config.data, strict=True))
        return
    sources = _sources(config)
    folders = {}
    with session.connected():
        for name, source in sources.items():
            folders[name] = scratch / name
            folders[name].mkdir()
            stream.ingest(source, folders[name], image_size=IMAGE_SIZE, max_pixels=config.max_pixels)
            dataset.finish(folders[name], image_size=IMAGE_SIZE, inputs=[source.name], may_be_empty=True)
    yield folders


def _sources(config: Validate) -> dict[str, Source]:
    others = {
        "persian_json": config.persian_json,
        "image_folder": config.image_folder,
        "parquet": config.parquet,
    }
    if not config.csv or any(others.values()):
        source = formats.source_of(
            csv=config.csv[0] if config.csv else None, image_base_path=config.image_base_path, **others
        )
        return {"all": source}
    opened = [formats.source_of(csv=csv, image_base_path=config.image_base_path) for csv in config.csv]
    return dict(zip(_names(list(config.csv)), opened, strict=True))


def _names(paths: Sequence[str]) -> list[str]:
    """A split name for each path: what its file or folder is called, or `all` if it is the only one.

    Raises InputError (bad_arguments).
    """
    if len(paths) == 1:
        return ["all"]
    names = [
        files.name(path.rstrip("/")).rpartition(".")[0] or files.name(path.rstrip("/")) for path in paths
    ]
    if len(set(names)) < len(names):
        names = [path.replace("/", "_").strip("_.") for path in paths]
    if len(set(names)) < len(names):
        raise InputError("bad_arguments", f"A file is named twice: {', '.join(paths)}.", "Name each once.")
    return names


def _report(folders: dict[str, Path]) -> dict[str, Any]:
    reports = [dataset.read_report(folder) for folder in folders.values()]
    if len(reports) == 1:
        return reports[0]
    total = dataset.summed(reports)
    numbers = survey.survey(folders)
    return {**total, **numbers, "warnings": numbers["warnings"] + cautions.guesses(total["codes"])}


def _keep(target: Path, report: dict[str, Any], folders: dict[str, Path], failed: bool) -> None:
    page.write(target / "report.html", report, folders)
    write_file(target / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
    with (target / "rejects.csv").open("wb") as joined:
        for number, folder in enumerate(folders.values()):
            with (folder / "rejects.csv").open("rb") as one:
                if number:
                    one.readline()  # the header is there already
                shutil.copyfileobj(one, joined)
    verdict = {"failed": failed, "rejected": report["pairs"]["rejected"], "warnings": len(report["warnings"])}
    write_file(target / MARKER, json.dumps(verdict))


def _summary(report: dict[str, Any], folders: dict[str, Path]) -> str:
    pairs, labels = report["pairs"], report["labels"]
    lines = [
        f"{', '.join(report['inputs'])}: {pairs['read']} pairs read = {pairs['written']} good + "
        f"{pairs['rejected']} rejected; {labels['match']} match, {labels['mismatch']} mismatch"
    ]
    for name, rows in report["splits"].items() if len(folders) > 1 else ():
        lines.append(f"  {name}: {rows} good")
    for code in report["rejects"]["codes"]:
        first = code["first"]
        lines.append(
            f"problem ({code['code']}, {code['count']} rows): {first['source']}:{first['line']}: {first['message']}"
        )
        lines.append(f"  {first['suggestion']}")
    if not pairs["read"] and not report["passages"]["read"]:
        lines.append("problem (no_rows): There is no row to check.\n  Check that it is the right file.")
    for warning in report["warnings"]:
        lines.append(f"warning ({warning['code']}): {warning['message']}")
        lines.append(f"  {warning['suggestion']}")
    verdict = (
        "clean"
        if not (pairs["rejected"] or report["warnings"])
        else "usable"
        if pairs["written"]
        else "unusable"
    )
    counts = f"rows with problems: {pairs['rejected']}, warnings: {len(report['warnings'])}"
    return "\n".join([*lines, f"{verdict}; {counts}"])


if __name__ == "__main__":
    command.main(Validate, run, __doc__)
