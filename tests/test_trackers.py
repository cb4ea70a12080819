"""A run shown and recorded: TensorBoard's files read back by TensorBoard, MLflow's store by MLflow."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train_jobs import mlflow_log
from train_jobs.mlflow_log import MLFLOW_RUN_ID
from train_jobs.tensorboard_log import TENSORBOARD
from train_jobs.trackers import Trackers

NAN = float("nan")
ROOT = Path(__file__).parent.parent
FLAGS = {
    "epochs": 2,
    "learning_rate": 5e-6,
    "loss": "pairs",
    "resume": False,
    "freeze": None,
    "output_dir": Path("o"),
}
STEPS = 8


def _start(resumed_step: int = 0, workers: int = 2) -> dict[str, Any]:
    return {"kind": "start", "resumed_step": resumed_step, "steps": STEPS, "workers": workers}


def _step(step: int, loss: float | None = None) -> dict[str, Any]:
    return {
        "kind": "step", "epoch": 1 + (step - 1) // 4, "epochs": 2, "step": step, "steps": STEPS,
        "loss": 1 / step if loss is None else loss, "learning_rate": step * 1e-6, "logit_scale": 14.5,
        "samples_per_s": 100.0 + step, "data_wait": 0.03, "seconds": 0.5 * step,
    }  # fmt: skip


def _epoch(epoch: int, auroc: float = 0.75, best: bool = True) -> dict[str, Any]:
    return {
        "kind": "epoch", "epoch": epoch, "step": 4 * epoch, "train_loss": 1 / epoch, "val_auroc": auroc,
        "val_recall": NAN, "score": auroc, "best": float(best), "samples_per_s": 99.0,
    }  # fmt: skip


def _run(
    folder: Path,
    events: Iterable[dict[str, Any]],
    *,
    resume: bool = False,
    error: BaseException | None = None,
) -> None:
    with Trackers.open(folder, FLAGS, resume=resume) as run:
        for event in events:
            run.event(event)
        if error is not None:
            raise error


def _read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / TENSORBOARD), {"scalars": 0, "tensors": 0})  # 0: all of them
    return events.Reload()


def _points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(point.step, pytest.approx(point.value, rel=1e-6)) for point in _read(folder).Scalars(tag)]


@pytest.fixture(autouse=True)
def _no_mlflow_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


class TestTensorBoard:
    def test_every_number_under_its_tag(self, tmp_path: Path) -> None:
        with Trackers.open(tmp_path, FLAGS, resume=False) as run:
            for event in [_start(), _step(3), _step(4), {"kind": "checkpoint", "step": 4}, _epoch(1)]:
                run.event(event)
            run.finish({"auroc": 0.9, "threshold": NAN})
        assert sorted(_read(tmp_path).Tags()["scalars"]) == [
            "epoch/samples_per_s", "epoch/train_loss", "final/auroc", "speed/data_wait", "speed/samples_per_s",
            "train/learning_rate", "train/logit_scale", "train/loss", "val/auroc", "val/score",
        ]  # fmt: skip
        assert _points(tmp_path, "train/loss") == [(3, 1 / 3), (4, 1 / 4)]
        assert _points(tmp_path, "train/learning_rate") == [(3, 3e-6), (4, 4e-6)]
        assert _points(tmp_path, "train/logit_scale") == [(3, 14.5), (4, 14.5)]
        assert _points(tmp_path, "speed/samples_per_s") == [(3, 103), (4, 104)]
        assert _points(tmp_path, "speed/data_wait") == [(3, 0.03), (4, 0.03)]
        assert _points(tmp_path, "epoch/train_loss") == [(4, 1)]
        assert _points(tmp_path, "val/auroc") == [(4, 0.75)]
        assert _points(tmp_path, "final/auroc") == [(4, 0.9)]

    def test_flags_as_text_and_as_hparams(self, tmp_path: Path) -> None:
        _run(tmp_path, [_start(), _step(1)])
        _run(tmp_path, [_start(), _step(1)], resume=True)
        events = _read(tmp_path)
        (text,) = events.Tensors("flags/text_summary")
        assert "| learning_rate | 5e-06 |\n| loss | pairs |" in text.tensor_proto.string_val[0].decode()
        assert set(events.summary_metadata) >= {"_hparams_/experiment", "_hparams_/session_start_info"}

    def test_a_running_training_can_be_read(self, tmp_path: Path) -> None:
        with Trackers.open(tmp_path, FLAGS, resume=False) as run:
            run.event(_start())
            for step in (1, 2):
                run.event(_step(step))
                assert _points(tmp_path, "train/loss")[-1] == (step, 1 / step)

    def test_a_resumed_run_appends_and_shows_replayed_steps_once(self, tmp_path: Path) -> None:
        _run(tmp_path, [_start(), *map(_step, range(1, 5)), _epoch(1), _step(5), _step(6, loss=77)])
        _run(tmp_path, [_start(5), _step(6), _step(7), _step(8), _epoch(2, 0.8)], resume=True)
        assert len(list((tmp_path / TENSORBOARD).iterdir())) == 2
        assert _points(tmp_path, "train/loss") == [(step, 1 / step) for step in range(1, 9)]
        assert _points(tmp_path, "val/auroc") == [(4, 0.75), (8, 0.8)]

    def test_a_run_killed_within_a_write_can_be_resumed(self, tmp_path: Path) -> None:
        _run(tmp_path, [_start(), _step(1), _step(2), _step(3)])
        (killed,) = (tmp_path / TENSORBOARD).iterdir()
        killed.write_bytes(killed.read_bytes()[:-20])
        _run(tmp_path, [_start(2), _step(3), _step(4)], resume=True)
        assert _points(tmp_path, "train/loss") == [(step, 1 / step) for step in range(1, 5)]

    @pytest.mark.parametrize("told", [[_start(2)], []], ids=["start", "no start"])
    def test_workers_that_start_again_replay_steps(self, tmp_path: Path, told: list[dict[str, Any]]) -> None:
        first = [
            _start(),
            *(_step(step) for step in (1, 2)),
            _step(3, loss=77),
            _step(4, loss=77),
            _epoch(1, 0.1),
        ]
        _run(tmp_path, [*first, *told, _step(3), _step(4), _epoch(1)])
        assert _points(tmp_path, "train/loss") == [(step, 1 / step) for step in range(1, 5)]
        assert _points(tmp_path, "val/auroc") == [(4, 0.75)]

    def test_an_epoch_measured_again_after_its_last_step_was_saved(self, tmp_path: Path) -> None:
        _run(tmp_path, [_start(), _step(3), _step(4), _epoch(1, 0.1)])
        _run(tmp_path, [_start(4), _epoch(1), _step(5)], resume=True)
        assert _points(tmp_path, "val/auroc") == [(4, 0.75)]

    def test_a_new_run_hides_an_old_one(self, tmp_path: Path) -> None:
        _run(tmp_path, [_start(), *map(_step, range(1, 9))])
        _run(tmp_path, [_start(), _step(1, loss=5), _step(2, loss=4)])
        assert _points(tmp_path, "train/loss") == [(1, 5), (2, 4)]

    def test_a_full_disk_is_told_once_and_ends_nothing(self, tmp_path: Path) -> None:
        """A limit on the size of files does what a full disk does: writing fails."""
        code = (
            "import resource, sys\nfrom pathlib import Path\nfrom train_jobs.trackers import Trackers\n"
            f"with Trackers.open(Path({str(tmp_path)!r}), {{}}, resume=False) as run:\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
            f"    for event in {[_start(), *map(_step, range(1, 99))]}: run.event(event)\n"
            "    run.finish({'auroc': 0.5})\n"
            "print('went on', 'mlflow' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        warning, end = done.stdout.splitlines()
        assert warning.startswith(
            "WARNING: TensorBoard's files are written no further: [Errno 27] File too large"
        )
        assert end == "went on False"  # and nobody imported mlflow unasked
        assert _points(tmp_path, "train/loss")[0] == (1, 1)


class TestTerminal:
    def test_bar_lines_and_messages(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        _run(
            tmp_path,
            [
                _start(),
                {"kind": "message", "text": "the vision tower is frozen"},
                *map(_step, range(1, 5)),
                _epoch(1),
                {**_epoch(2, 0.5, best=False), "val_recall": 0.25},
                {"kind": "checkpoint", "step": 5},
                _step(6),
            ],
        )
        shown = capsys.readouterr()
        assert shown.out.splitlines() == [
            "the vision tower is frozen",
            "epoch   1  loss 1.000  validation AUROC 0.7500  best",
            "epoch   2  loss 0.500  validation AUROC 0.5000  recall 0.2500",
        ]
        last = shown.err.rstrip("\n").split("\r")[-1]
        assert last.startswith("epoch 2/2:  75%|")
        bar, rest = last.rsplit("| ", 1)
        assert bar.count("█") >= 7
        assert rest.startswith("6/8, ETA 00:0")
        assert rest.endswith(", loss 0.167, 106 pairs/s, data-wait 3%, saved 5")

    def test_a_resumed_run_starts_where_it_was(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _run(tmp_path, [_start(6, workers=1)], resume=True)
        shown = capsys.readouterr()
        assert shown.out == "resumed after step 6 of 8, with 1 worker\n"
        drawn = shown.err.strip().split("\r")
        assert drawn and all(line.startswith("train:  75%|") for line in drawn)  # never from 0 %

    def test_the_bar_goes_back_with_the_workers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _run(tmp_path, [_start(), _step(5), _step(6), _start(4), _step(5)])
        shown = capsys.readouterr()
        assert shown.out == "started again after step 4 of 8, with 2 workers\n"
        assert "| 5/8, ETA" in shown.err.rstrip("\n").split("\r")[-1]
        _run(tmp_path, [_start(), _step(6), _step(3)])
        assert "| 3/8, ETA" in capsys.readouterr().err.rstrip("\n").split("\r")[-1]

    def test_an_unknown_kind_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="'stpe'"):
            _run(tmp_path, [{"kind": "stpe", "step": 1}])


class TestMLflow:
    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """An MLflow store in files, configured as a user would."""
        store = tmp_path / "store"
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store.as_uri())
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "shoes")
        return store

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "output"
        folder.mkdir()
        return folder

    def _recorded(self, store: Path) -> tuple[MlflowClient, Run]:
        """The only run of the experiment."""
        client = MlflowClient(store.as_uri())
        experiment = client.get_experiment_by_name("shoes")
        assert experiment is not None
        (run,) = client.search_runs([experiment.experiment_id])
        return client, run

    def _points(self, store: Path, tag: str) -> list[tuple[int, float]]:
        client, run = self._recorded(store)
        return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, tag)]

    def test_flags_numbers_and_artefacts(self, store: Path, folder: Path) -> None:
        (folder / "best_model").mkdir()
        (folder / "best_model" / "spec.json").write_text("{}")
        (folder / "history.json").write_text("[]")
        with Trackers.open(folder, FLAGS, resume=False) as run:
            for event in [_start(), *map(_step, range(1, 5)), _epoch(1)]:
                run.event(event)
            run.finish({"auroc": 0.9, "threshold": NAN}, [folder / "best_model", folder / "history.json"])
        client, recorded = self._recorded(store)
        assert recorded.info.status == "FINISHED"
        assert recorded.data.params == {name: str(value) for name, value in FLAGS.items()}
        assert recorded.data.metrics.keys() == set(_read(folder).Tags()["scalars"])
        assert recorded.data.metrics["final/auroc"] == 0.9
        assert self._points(store, "train/loss") == [(step, 1 / step) for step in range(1, 5)]
        assert self._points(store, "val/auroc") == [(4, 0.75)]
        kept = {a.path for a in client.list_artifacts(recorded.info.run_id)}
        assert kept == {"best_model", "history.json"}
        (spec,) = client.list_artifacts(recorded.info.run_id, "best_model")
        assert (spec.path, spec.file_size) == ("best_model/spec.json", 2)

    @pytest.mark.parametrize(
        ("error", "status"), [(RuntimeError("out of memory"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
    )
    def test_how_it_ended(self, store: Path, folder: Path, error: BaseException, status: str) -> None:
        with pytest.raises(type(error)):
            _run(folder, [_start(), _step(1)], error=error)
        assert self._recorded(store)[1].info.status == status
        assert self._points(store, "train/loss") == [(1, 1)]

    def test_a_resumed_run_goes_on_in_the_same_run(self, store: Path, folder: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            _run(folder, [_start(), *map(_step, range(1, 5)), _epoch(1), _step(5)], error=KeyboardInterrupt())
        _run(folder, [_start(3), *map(_step, range(4, 9)), _epoch(1), _epoch(2, 0.8)], resume=True)
        assert self._recorded(store)[1].info.status == "FINISHED"
        assert self._points(store, "train/loss") == [(step, 1 / step) for step in range(1, 9)]
        assert self._points(store, "val/auroc") == [(4, 0.75), (8, 0.8)]

    def test_a_new_run_in_the_same_folder_is_another(self, store: Path, folder: Path) -> None:
        _run(folder, [_start(), _step(1)])
        first = (folder / MLFLOW_RUN_ID).read_text()
        _run(folder, [_start(), _step(1)])
        assert (folder / MLFLOW_RUN_ID).read_text() != first

    def test_workers_that_start_again_are_recorded_once(self, store: Path, folder: Path) -> None:
        _run(folder, [_start(), *map(_step, range(1, 4)), _start(1), *map(_step, range(2, 5))])
        assert self._points(store, "train/loss") == [(step, 1 / step) for step in range(1, 5)]

    def test_what_a_failing_store_did_not_take_is_sent_later(
        self, store: Path, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        store.write_text("a file where MLflow's directory should be")
        with Trackers.open(folder, FLAGS, resume=False) as run:
            shown = ""
            for step in (1, 2):
                run.event(_step(step))
                shown += _until_warned(capsys) if step == 1 else ""
            store.unlink()
            run.event(_step(3))
        assert shown.count("WARNING: MLflow") == 1
        assert self._points(store, "train/loss") == [(1, 1), (2, 1 / 2), (3, 1 / 3)]
        assert self._recorded(store)[1].info.status == "FINISHED"

    def test_a_broken_address_warns_once(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://nowhere")
        monkeypatch.setattr(mlflow_log, "_RETRY_S", 0.0)
        with Trackers.open(folder, FLAGS, resume=False) as run:
            for event in [_start(), *map(_step, range(1, 9))]:
                run.event(event)
            run.finish({"auroc": 0.9}, [folder])
        assert capsys.readouterr().out.count("WARNING: MLflow does not record all of this run") == 1
        assert len(_points(folder, "train/loss")) == 8

    def test_a_server_that_never_answers_holds_up_nothing(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "8")  # so that the thread is not left for minutes
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        monkeypatch.setattr(mlflow_log, "_PATIENCE_S", 1.0)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
            started = time.monotonic()
            _run(folder, [_start(), *map(_step, range(1, 9))])
            assert time.monotonic() - started < 6
        assert "no answer within 1 s" in capsys.readouterr().out

    def test_not_configured_is_not_used(self, folder: Path) -> None:
        _run(folder, [_start(), _step(1)])
        assert [path.name for path in folder.iterdir()] == [TENSORBOARD]

    def test_configured_but_not_installed_is_told(
        self, store: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(
            sys.modules, "mlflow", None
        )  # Python's own way to say that there is no such module
        _run(folder, [_start(), _step(1)])
        assert "pip install mlflow-skinny" in capsys.readouterr().out
        assert not store.exists()


def _until_warned(capsys: pytest.CaptureFixture[str]) -> str:
    """What is shown until the first warning; empty after ten seconds without."""
    shown = ""
    for _ in range(100):
        shown += capsys.readouterr().out
        if "WARNING" in shown:
            break
        time.sleep(0.1)
    return shown
