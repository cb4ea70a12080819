"""The whole way in one command: pictures -> dataset -> model -> index -> HTTP answers, checked.

    python -m serve_app.demo                                drawn products (make demo)
    python -m serve_app.demo --data ../shared/data/grocery  your photos   (make demo DATA=DIR)

A folder of photos must hold `train_matches.csv` and `val_pairs.csv` (image_path,text,label). The service stays up
until Ctrl-C; with `--exit` or DEMO_EXIT=1 it stops after the answers. The exit code is 0 only if every step worked,
the AUROC is reached and, on the drawn products, no verdict that the service was sure of is wrong (real photos are
not that kind; there the AUROC decides).
"""

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from data_jobs import command, csv_pairs, dataset, ingest, make_sample
from data_jobs.errors import InputError
from data_jobs.ingest import Ingest
from data_jobs.items import Record
from data_jobs.make_sample import MakeSample
from data_jobs.session import connected
from serve_app import demo_data
from serve_app.demo_data import DemoData
from train_jobs import build_index, evaluate, finetune
from train_jobs.augment import Augmentation
from train_jobs.build_index import BuildIndex
from train_jobs.evaluate import Evaluate
from train_jobs.finetune import Finetune

PORT = 8000
ADDRESS = f"http://127.0.0.1:{PORT}"
READY_WITHIN_S = 180
REQUESTS = 12
SURE = 0.9
"""A probability of match or mismatch above it is a promise."""
PHOTO_VIEWS = 220_000
"""Views of photos that a training takes by default, over all epochs: less than half an hour on two cores."""
MIN_AUROC_DRAWN, MIN_AUROC_PHOTOS = 0.97, 0.92


@dataclass(frozen=True)
class Demo:
    data: Path | None = None
    """Folder of your own photos with train_matches.csv and val_pairs.csv; default: drawn products."""
    output_dir: Path = Path("demo_output")
    """Everything the demo makes; the next run replaces it."""
    products: int = 3000
    """How many products to draw."""
    epochs: int | None = None
    """Passes over the training pairs (default: enough for the data at hand)."""
    exit: bool = False
    """Stop after the answers instead of serving until Ctrl-C."""


def run(config: Demo) -> int:
    """Run all steps; 0 if everything came out as expected, else 1. Raises InputError."""
    _refuse_a_second_server()
    started = time.monotonic()
    out = config.output_dir.absolute()
    model, index = out / "model" / "best_model", out / "index"
    with connected():
        data, docstore = _catalogue(config, out)
        datasets = _ingest(data, out)
        _title("Train a small model from scratch: Ray Train, 2 workers")
        finetune.run(_recipe(config, datasets, out / "model"))
        _title("Evaluate on pairs it never saw")
        measured = evaluate.run(
            Evaluate(
                model=str(model),
                csv=str(data.test),
                classes=data.classes,
                output_dir=out / "evaluation",
                overwrite=True,
            )
        )
        _title("Index the passages: FAISS")
        build_index.run(
            BuildIndex(
                model=str(model),
                docstore=docstore or datasets["train"] / "docstore.parquet",
                output_dir=index,
            )
        )
    _title("Serve: Ray Serve, serve_config.yaml")
    with _served(model, index):
        print(f"ready {time.monotonic() - started:.0f} s after the start\n")
        score = _ask(_chosen(data.test))
        floor = MIN_AUROC_DRAWN if config.data is None else MIN_AUROC_PHOTOS
        ok = measured["auroc"] >= floor and (config.data is not None or score.as_expected())
        print(f"\nAUROC {measured['auroc']:.4f} (expected at least {floor}); verdicts: {score}")
        print(f"{'As expected' if ok else 'NOT as expected'}, after {time.monotonic() - started:.0f} s.")
        print(f"Interactive docs: {ADDRESS}/docs")
        if not (config.exit or os.environ.get("DEMO_EXIT") == "1"):
            _wait_for_ctrl_c()
    return 0 if ok else 1


def _catalogue(config: Demo, out: Path) -> tuple[DemoData, Path | None]:
    """The run's CSV files, and a docstore of its own where there is one (the Persian JSON of drawn products)."""
    if config.data is not None:
        _title(f"Split the photos of {config.data}")
        return demo_data.from_photos(config.data.absolute(), out / "pairs"), None
    _title(f"Draw {config.products} products, with a few files broken on purpose")
    sample = make_sample.run(
        MakeSample(config.products, out / "catalogue", size=128, overwrite=(out / "catalogue").exists())
    )
    _title("Ingest the Persian JSON: Ray Data")
    ingest.run(
        Ingest(
            persian_json=str(sample / "persian"), output_dir=out / "persian", image_size=128, overwrite=True
        )
    )
    names = ("train", "val", "calibration", "test")
    return DemoData(*(sample / f"{name}.csv" for name in names)), out / "persian" / "docstore.parquet"


def _ingest(data: DemoData, out: Path) -> dict[str, Path]:
    _title("Ingest the pairs: Ray Data -> Parquet")
    datasets = {name: out / "data" / name for name in ("train", "val", "calibration")}
    for name, folder in datasets.items():
        ingest.run(Ingest(csv=str(getattr(data, name)), output_dir=folder, image_size=192, overwrite=True))
    return datasets


def _recipe(config: Demo, datasets: dict[str, Path], output: Path) -> Finetune:
    """What trains well from scratch in minutes on two cores, for drawings and for photos."""
    common: dict[str, Any] = {
        "train_data": datasets["train"],
        "val_data": datasets["val"],
        "calibration_data": datasets["calibration"],
        "num_workers": 2,
        "cpus_per_worker": 1.0 if (os.cpu_count() or 1) > 1 else 0.5,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "output_dir": output,
        "overwrite": True,
    }
    if config.data is None:
        gentle = Augmentation(min_area=0.5, brightness=0.1, contrast=0.1)
        return Finetune(
            **common, model_name="scratch:tiny-clip", epochs=config.epochs or 32, augmentation=gentle
        )
    strong = Augmentation(
        min_area=0.35, rotation=10, brightness=0.3, contrast=0.3, saturation=0.3, tint=0.08, cutmix=0.5
    )
    photos = dataset.read_report(datasets["train"])["pairs"]["written"]
    return Finetune(
        **common,
        model_name="scratch:resnet",
        epochs=config.epochs or max(1, round(PHOTO_VIEWS / max(1, photos))),
        weight_decay=0.05,
        vision_optimizer="sgd",
        vision_learning_rate=0.1,
        vision_weight_decay=1e-3,
        warmup=0.05,
        gradient_clip=5.0,
        label_smoothing=0.1,
        average=0.998,
        augmentation=strong,
        policy="precision=0.9",
    )


@contextmanager
def _served(model: Path, index: Path) -> Iterator[None]:
    """`serve run serve_config.yaml` as a user would start it, for the block."""
    config = Path(__file__).parent.parent / "serve_config.yaml"
    environment = os.environ | {
        "CLIP_MODEL_PATH": str(model),
        "CLIP_INDEX_PATH": str(index),
        "RAY_AUTH_MODE": "disabled",  # a private cluster on loopback
    }
    environment.pop("RAY_ADDRESS", None)
    log_path = index.parent / "serve.log"
    executable = str(Path(sys.executable).parent / "serve")
    with log_path.open("wb") as log:
        server = subprocess.Popen(
            [executable, "run", str(config)], env=environment, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for us; we stop it
        )  # fmt: skip
    try:
        _wait_until_ready(server, log_path)
        yield
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()


def _refuse_a_second_server() -> None:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise InputError(
                "port_in_use", f"Something already listens on port {PORT}.", "Stop it; the demo serves there."
            )


def _wait_until_ready(server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{ADDRESS}/healthz/ready", timeout=15).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    tail = log.read_text(errors="replace")[-2000:]
    raise InputError("not_served", f"{ADDRESS} is not ready; the server said:\n{tail}", f"See {log}.")


def _chosen(test_csv: Path) -> list[Record]:
    """REQUESTS test pairs, half matches and the mismatches of each kind in turn, drawn by a fixed seed."""
    records = csv_pairs.records(str(test_csv))
    random.Random(0).shuffle(records)
    matches = [record for record in records if record.label == 1]
    kinds = sorted({record.metadata.get("mismatch_kind", "") for record in records if record.label == 0})
    of_kind = [
        [r for r in records if r.label == 0 and r.metadata.get("mismatch_kind", "") == k] for k in kinds
    ]
    mismatches = [record for group in zip(*of_kind, strict=False) for record in group]
    half = REQUESTS // 2
    return matches[:half] + mismatches[: REQUESTS - half]


@dataclass
class Score:
    """How the verdicts of the table came out."""

    right: int = 0
    wrong: int = 0  # and the service was sure
    unsure: int = 0  # wrong, with a calibrated probability that admitted it

    def as_expected(self) -> bool:
        """A drawn product may now and then be a close call; a sure verdict must be right."""
        return self.wrong == 0 and self.unsure <= 1

    def __str__(self) -> str:
        return f"{self.right} right, {self.wrong} wrong, {self.unsure} wrong but unsure"


def _ask(records: Sequence[Record]) -> Score:
    """Send each pair to /clip/analyze, and one search, and print the answers."""
    score = Score()
    print(f"{'picture':24} {'description':52} {'verdict':9} {'P(match)':>8}  right?")
    with httpx.Client(base_url=ADDRESS, timeout=60) as client:
        for record in records:
            picture = Path(record.image_path)
            answer = _ok(
                client.post(
                    "/clip/analyze", files={"file": picture.read_bytes()}, data={"text": record.text[:500]}
                )
            )
            probability = answer["match_probability"]
            if answer["is_mismatch"] == (record.label == 0):
                mark, score.right = "right", score.right + 1
            elif max(probability, 1 - probability) > SURE:
                mark, score.wrong = "WRONG", score.wrong + 1
            else:
                mark, score.unsure = "wrong, but unsure", score.unsure + 1
            verdict = "mismatch" if answer["is_mismatch"] else "match"
            print(f"{picture.name[-24:]:24} {record.text[:52]:52} {verdict:9} {probability:8.3f}  {mark}")
        query = next((r.text for r in records if not r.text.isascii()), records[0].text)
        hits = _ok(client.post("/search", json={"text": query, "top_k": 3}))["hits"]
        print(f"\nsearch {query!r}:")
        for hit in hits:
            print(f"  {hit['score']:.3f}  {hit['passage_text'][:90]}")
    return score


def _ok(response: httpx.Response) -> dict[str, Any]:
    """The answer's JSON. Raises InputError (bad_answer) for any status but 200."""
    if response.status_code != 200:
        raise InputError(
            "bad_answer", f"{response.url}: {response.status_code} {response.text}.", "See serve.log."
        )
    answer: dict[str, Any] = response.json()
    return answer


def _wait_for_ctrl_c() -> None:
    print("Serving until Ctrl-C.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print("stopping")


def _title(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    command.main(Demo, run, __doc__)
