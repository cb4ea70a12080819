"""Training workers on a Ray cluster: started, replaced when they are lost, and heard.

A library that knows Ray, as `indexing` is. `loop` is what each worker runs.
"""

import queue as queues
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data_jobs.errors import InputError
from train_jobs.encoder import Encoder
from train_jobs.loop import STATES, Event, Training
from train_jobs.pairdata import PairData
from train_jobs.schedule import Schedule


@dataclass(frozen=True)
class Crew:
    """Who trains."""

    workers: int | tuple[int, int]  # as many, or (fewest, most)
    cpus: float  # of each, and its threads
    gpu: bool  # one each
    max_failures: int  # how often lost workers are replaced


def fit(
    name: str,
    start: str,
    train_data: PairData,
    val_data: PairData,
    schedule: Schedule,
    folder: Path,
    crew: Crew,
    tell: Callable[[Event], None],
) -> list[dict[str, float]]:
    """Train the model at the path `start` in `folder`, which every node sees; the history of all epochs.

    States and models are written there, and a newest state is gone on from; Ray calls the run by `name`; `tell` gets
    the loop's events in this process. Raises InputError (training_failed, and those of Training), OSError (a full
    disk), KeyboardInterrupt.
    """
    remove_half_written(folder)
    with _listening(tell) as queue:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "start": start,
                "schedule": schedule,
                "train": ray.put(train_data),
                "val": ray.put(val_data),
                "folder": str(folder),
                "queue": queue,
            },
            torch_config=TorchConfig(backend="nccl" if crew.gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=crew.workers,
                use_gpu=crew.gpu,
                resources_per_worker={"CPU": crew.cpus, **({"GPU": 1} if crew.gpu else {})},
            ),
            run_config=RunConfig(
                name=f"{name}-{uuid.uuid4().hex[:6]}",
                storage_path=str(folder / "ray"),
                failure_config=FailureConfig(max_failures=crew.max_failures),
            ),
        )
        try:
            result = trainer.fit()
        except SystemExit as stop:  # how Ray Train answers Ctrl-C
            raise KeyboardInterrupt from stop
        except TrainingFailedError as failure:
            raise InputError(
                "training_failed",
                f"Workers failed {crew.max_failures + 1} times: {str(failure).strip().splitlines()[-1][:500]}",
                "CLIP_DEBUG=1 shows all of it. --resume goes on from the newest state.",
            ) from failure
    history, error = result.return_value
    if error is not None:
        raise error
    return history


def _worker(setup: dict[str, Any]) -> tuple[list[dict[str, float]], Exception | None]:
    """One Ray Train worker: the history, or what makes it pointless to try again, which is the same on all of them."""
    schedule: Schedule = setup["schedule"]
    torch.set_num_threads(schedule.threads)
    encoder = Encoder.load(setup["start"], device=str(ray.train.torch.get_device()).split(":")[0])
    try:
        training = Training(
            encoder,
            ray.get(setup["train"]),
            ray.get(setup["val"]),
            schedule,
            Path(setup["folder"]),
            progress=setup["queue"].put,
            end_of_epoch=ray.train.report,
        )
        return training.run(), None
    except (InputError, OSError) as error:  # a diverged loss, a full disk
        return [], error


@contextmanager
def _listening(tell: Callable[[Event], None]) -> Iterator[Queue]:
    """A queue for the workers' events, shown and recorded by a thread of this process as they come."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})  # lives as long as the driver

    def listen() -> None:
        while True:
            try:
                event: Event | None = queue.get(timeout=60)
            except queues.Empty:
                continue
            if event is None:
                return
            tell(event)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield queue
    finally:
        queue.put(None)
        listener.join(timeout=10)
        queue.shutdown()


def remove_half_written(folder: Path) -> None:
    """Remove what a killed worker was writing."""
    for half_written in [*folder.glob(".*.writing-*"), *folder.glob(f"{STATES}/.*.writing-*")]:
        shutil.rmtree(half_written, ignore_errors=True)
