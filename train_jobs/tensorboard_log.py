"""A run's numbers as TensorBoard's files, which a resumed run appends to.

They are written by tensorboardX, which Ray Train brings along (torch.utils.tensorboard would need all of TensorBoard),
but not by its SummaryWriter: its `add_scalar` blocks for ever once its thread has met a full disk.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from train_jobs.events import tagged

TENSORBOARD = "tensorboard"
"""The folder of event files in a run's folder."""

_COMPARED = ("val/score", "val/auroc", "val/recall")  # TensorBoard's HPARAMS page shows these of every run


class TensorBoard:
    """Event files that a resumed run appends to. Each event is flushed: they come about once a second."""

    def __init__(
        self, folder: Path, flags: Mapping[str, object], resume: bool, say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._writer: EventsWriter | None = None
        self._ended: Any = None  # the HPARAMS page's record of a finished run
        self._step = self._epoch_step = 0  # the last recorded
        self._try(lambda: self._open(folder, flags, resume))

    def event(self, event: Mapping[str, Any]) -> None:
        match event["kind"]:
            case "start":
                self._step = self._epoch_step = event["resumed_step"]
                self._try(lambda: self._forget(self._step + 1))
            case "step":
                self._record(event, again=event["step"] <= self._step)
                self._step = event["step"]
                # An epoch that ended at this step or after it was forgotten along with the step.
                self._epoch_step = min(self._epoch_step, event["step"] - 1)
            case "epoch":
                self._record(event, again=event["step"] <= self._epoch_step)
                self._epoch_step = event["step"]

    def finish(self, metrics: Mapping[str, float]) -> None:
        self._try(lambda: self._write(metrics, self._step))
        if self._ended is not None:
            self._try(lambda: self._add(summary=self._ended))

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            self._try(writer.close)

    def _open(self, folder: Path, flags: Mapping[str, object], resume: bool) -> None:
        folder.mkdir(exist_ok=True)
        earlier = len(list(folder.glob("events.*")))
        # Readers go by name, and a name has the second only: without a number, two runs in a second would be one file.
        self._writer = EventsWriter(str(folder / "events"), f".{earlier:04d}")
        facts = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in flags.items()
        }
        experiment, begun, self._ended = summary.hparams(facts, dict.fromkeys(_COMPARED))
        if not (resume and earlier):
            self._forget(0)
            table = ["| flag | value |", "|---|---|", *(f"| {name} | {facts[name]} |" for name in facts)]
            for one in (summary.text("flags", "\n".join(table)), experiment, begun):
                self._add(summary=one)

    def _record(self, event: Mapping[str, Any], *, again: bool) -> None:
        if again:
            self._try(lambda: self._forget(event["step"]))
        self._try(lambda: self._write(tagged(event), event["step"]))

    def _forget(self, step: int) -> None:
        """Make readers drop what was recorded at `step` and after it (tensorboardX's purge_step)."""
        self._add(step=step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, scalars: Mapping[str, float], step: int) -> None:
        for tag, value in scalars.items():
            self._add(step=step, summary=summary.scalar(tag, value))

    def _add(self, **content: Any) -> None:
        if self._writer is not None:
            self._writer.write_event(Event(wall_time=time.time(), **content))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
            if self._writer is not None:
                self._writer.flush()
        except OSError as error:
            self._writer = None
            self._say(f"WARNING: TensorBoard's files are written no further: {error}. The training goes on.")
