"""A run's flags, numbers and artefacts as a run of MLflow, which is imported only where it is configured."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from data_jobs.artefacts import write_file
from train_jobs.events import tagged

MLFLOW_RUN_ID = "mlflow_run_id"
"""The file in a run's folder with which a resumed run finds its MLflow run again."""

_RETRY_S = 30.0  # between attempts on an MLflow that fails at once
_PATIENCE_S = 20.0  # at the end, for an MLflow that has not answered or has failed, or a run that did
_BATCH = 100  # events in one call; MLflow takes at most 1000 metrics
_PARAMETER = 500  # characters; older servers take no more
_PROOF = {"step": "train/loss", "epoch": "epoch/train_loss"}  # a tag that each event of a kind has


@dataclass(frozen=True)
class _Sending:
    """A step or epoch event on its way to MLflow."""

    kind: str
    step: int
    when: int  # ms since 1970
    scalars: dict[str, float]


class MLflow:
    """An MLflow run, from a thread of its own: a server that answers late, or not at all, holds up nothing.

    What a failing server did not take is kept and sent when it answers again. Steps that were sent before, by this
    process or by the one that it resumes, are not sent again.
    """

    def __init__(
        self, record: Path, flags: Mapping[str, object], resume: bool, say: Callable[[str], None]
    ) -> None:
        self._record, self._flags, self._say = record, flags, say
        self._resumed = record.read_text() if resume and record.is_file() else None
        self._run_id: str | None = None
        self._sent = dict.fromkeys(_PROOF, 0)  # the last global step of each kind that MLflow has
        self._waiting: list[_Sending] = []
        self._final: tuple[Mapping[str, float], Sequence[Path]] = {}, ()
        self._warned = False
        self._events: queue.SimpleQueue[_Sending | str] = queue.SimpleQueue()  # at last the run's status
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def event(self, event: Mapping[str, Any]) -> None:
        self._events.put(_Sending(event["kind"], event["step"], int(time.time() * 1000), tagged(event)))

    def finish(self, metrics: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        self._final = metrics, artefacts

    def close(self, status: str) -> None:
        self._events.put(status)
        deadline = time.monotonic() + _PATIENCE_S
        while self._thread.is_alive():
            self._thread.join(0.2)
            well = status == "FINISHED" and self._run_id and not self._warned  # artefacts take their time
            if not well and time.monotonic() > deadline:
                self._warn(f"no answer within {_PATIENCE_S:.0f} s")
                return

    def _work(self) -> None:
        try:
            import mlflow  # takes seconds
        except Exception as error:  # whatever a broken installation raises
            self._warn(error)
            return
        status, pause_until = "", 0.0
        while True:
            if status or time.monotonic() >= pause_until:
                try:
                    self._deliver(mlflow, status)
                except Exception as error:  # each of MLflow's stores raises its own kinds
                    self._warn(error)
                    pause_until = time.monotonic() + _RETRY_S
            if status:
                return
            status = self._receive()

    def _receive(self) -> str:
        """Wait for events and take all that there are; the run's status if it has ended, else ''."""
        while True:
            item = self._events.get()
            if isinstance(item, str):
                return item
            self._waiting.append(item)
            if self._events.empty():
                return ""

    def _deliver(self, mlflow: ModuleType, status: str) -> None:
        """Send what waits, and end the run if it has a status; any exception that MLflow raises."""
        try:
            if self._run_id is None:
                self._run_id = self._start(mlflow)
            client = mlflow.MlflowClient()
            while self._waiting:
                self._send(client, self._run_id, self._waiting[:_BATCH])
                del self._waiting[:_BATCH]
            if status:
                self._send_final(client, self._run_id)
        finally:
            if status:
                mlflow.end_run(status)  # does nothing where none could be started

    def _start(self, mlflow: ModuleType) -> str:
        """Start a run, or go on with the resumed one; its id."""
        run_id: str = (mlflow.active_run() or mlflow.start_run(run_id=self._resumed)).info.run_id
        if self._resumed:
            for kind, tag in _PROOF.items():
                history = mlflow.MlflowClient().get_metric_history(run_id, tag)
                self._sent[kind] = max((metric.step for metric in history), default=0)
        else:
            mlflow.log_params({name: str(value)[:_PARAMETER] for name, value in self._flags.items()})
            write_file(self._record, run_id)
        return run_id

    def _send(self, client: Any, run_id: str, events: Sequence[_Sending]) -> None:
        sent, metrics = dict(self._sent), []
        for event in events:
            if event.step > sent[event.kind]:
                sent[event.kind] = event.step
                metrics += _metrics(event.scalars, event.when, event.step)
        if metrics:
            client.log_batch(run_id, metrics)
        self._sent = sent

    def _send_final(self, client: Any, run_id: str) -> None:
        metrics, artefacts = self._final
        if metrics:
            client.log_batch(run_id, _metrics(metrics, int(time.time() * 1000), self._sent["step"]))
        for path in artefacts:
            if path.is_dir():
                client.log_artifacts(run_id, str(path), path.name)
            else:
                client.log_artifact(run_id, str(path))

    def _warn(self, error: object) -> None:
        if not self._warned:
            self._warned = True
            self._say(
                f"WARNING: MLflow does not record all of this run: {str(error)[:1000]}. "
                "This is told once; the training does not depend on it."
            )


def _metrics(scalars: Mapping[str, float], when: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(tag, value, when, step) for tag, value in scalars.items()]
