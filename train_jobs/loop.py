"""The training loop of one worker: plain PyTorch, told how to report and where to save.

`finetune` runs it under Ray Train; it runs as well in a notebook, alone, with `progress=print`.
"""

import copy
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from data_jobs.errors import InputError
from train_jobs import gradients, losses, sharding, trainable, workers
from train_jobs.augment import Augmentation
from train_jobs.batches import Batch, Batches, learnable
from train_jobs.encoder import Encoder
from train_jobs.frozen import FrozenFeatures
from train_jobs.pairdata import PairData, score_pairs
from train_jobs.runstate import RunState
from train_jobs.schedule import Schedule, set_learning_rates
from train_jobs.towers import TwoTower
from train_jobs.validation import Validation

Event = dict[str, Any]

BIAS_PAIRS = 256
"""So many training pairs of each label place the first bias of `pairs` and `sigmoid`."""
STATES = "checkpoints"
"""The folder of the run's states, in the run's folder."""


class Training:
    """One worker's part of a run: build it from the start or from the newest state in the folder, then `run` it."""

    def __init__(
        self,
        encoder: Encoder,
        train_data: PairData,
        val_data: PairData,
        schedule: Schedule,
        folder: Path,
        *,
        progress: Callable[[Event], None] = lambda event: None,
        end_of_epoch: Callable[[dict[str, float]], None] = lambda epoch: None,
    ) -> None:
        """`folder` is where states and models go; every worker sees it.

        `progress` is called on rank 0 with `events`, `end_of_epoch` on every rank. Raises
        InputError (too_few_pairs, no_matches, one_label, cannot_adapt, cannot_checkpoint, cannot_shard, cannot_mix).
        """
        self.encoder, self.schedule, self.folder = encoder, schedule, folder
        self._progress, self._end_of_epoch = progress, end_of_epoch
        data = learnable(train_data, schedule.loss)
        towers = encoder.towers
        # What was true of the model that training starts from is not true of what it saves.
        encoder.spec = encoder.spec.replace(
            calibration=None, threshold=None, metrics={}, data_fingerprint=train_data.fingerprint
        )
        towers.bound_scale()
        if not schedule.shard:  # a third faster for convolutions on CPUs; FSDP wants contiguous weights
            towers.model.vision_model.to(memory_format=torch.channels_last)
        autocast = schedule.autocast(encoder.device)
        still = schedule.freeze == "vision" and schedule.augmentation == Augmentation.none()
        self._batches = Batches(
            encoder,
            data,
            schedule,
            FrozenFeatures.of_images(encoder, data, autocast) if still else None,
            FrozenFeatures.of_texts(encoder, data, autocast) if schedule.freeze == "text" else None,
        )
        self._validation = Validation(encoder, val_data, schedule)
        self.steps = schedule.epochs * self._batches.per_epoch
        state = RunState.latest(folder / STATES)
        if state is None and schedule.loss != "contrastive" and not towers.logit_bias.item():
            self._set_bias(data)
        trainable.prepare(encoder, schedule)
        self._sharded = schedule.shard and workers.count() > 1
        self._plain = copy.deepcopy(towers).cpu() if self._sharded else towers  # what can be saved
        if self._sharded:
            sharding.shard(towers)
        self._optimisers = schedule.optimisers(towers)
        self._average: AveragedModel | None = None
        if schedule.average:
            self._average = AveragedModel(
                towers, multi_avg_fn=_average_fn(schedule.average), use_buffers=True
            )
        self._model: nn.Module = towers
        if workers.count() > 1 and not self._sharded:
            # Batch statistics are not exchanged in every step: `_finish_epoch` gives everybody rank 0's.
            self._model = nn.parallel.DistributedDataParallel(towers, forward_sync_buffers=False)
        self._history: list[dict[str, float]] = []
        self._running = {"loss": 0.0, "seconds": 0.0, "waited": 0.0}
        self._step = 0
        if state is not None:
            self._restore(state)

    def run(self) -> list[dict[str, float]]:
        """Train to the end; the metrics of all epochs, on every rank.

        Leaves `best_model` and `final_model` in the folder. Raises InputError (diverged), OSError (a full disk).
        """
        self._say(
            {"kind": "start", "resumed_step": self._step, "steps": self.steps, "workers": workers.count()}
        )
        per_epoch = self._batches.per_epoch
        told = self._told()
        with closing(self._batches.from_step(self._step, self.steps)) as coming:
            while self._step < self.steps and not self._patience_is_over():
                began, waited = time.perf_counter(), self._batches.waited
                self._running["loss"] += self._one_step(next(coming))
                self._step += 1
                self._running["seconds"] += time.perf_counter() - began
                self._running["waited"] += self._batches.waited - waited
                ends_epoch = self._step % per_epoch == 0
                if ends_epoch or self._running["seconds"] - told["seconds"] > 1:
                    self._say(self._step_event(told))
                    told = self._told()
                if ends_epoch:
                    self._finish_epoch()
                    told = self._told()
                elif self.schedule.save_steps and self._step % self.schedule.save_steps == 0:
                    self._save(f"checkpoint_step_{self._step}")
        self._publish("final_model")
        return self._history

    def _one_step(self, batches: list[Batch]) -> float:
        """One update of the weights; the loss over all workers' shares, on this worker's."""
        schedule, towers = self.schedule, self.encoder.towers
        torch.manual_seed(
            ((schedule.seed * 1_000_003 + self._step) * 1009 + workers.rank()) % 2**63
        )  # dropout
        trainable.training_mode(towers, schedule)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        device = self.encoder.device
        with schedule.attention(device):
            loss = gradients.backward(self._model, batches, self._loss, schedule.autocast(device))
        if self._sharded:
            sharding.exchange(towers)
        norm = sharding.clip(towers, schedule.gradient_clip)
        if not torch.isfinite(norm):  # the same on all workers, since gradients have been exchanged
            raise InputError(
                "diverged",
                f"The loss is {loss.item()} and the norm of its gradient {norm.item()} in step {self._step + 1}.",
                "Use a lower --learning-rate.",
            )
        set_learning_rates(self._optimisers, schedule.factor(self._step, self.steps))
        for optimiser in self._optimisers:
            optimiser.step()
        towers.bound_scale()
        if self._average is not None:
            self._average.update_parameters(towers)
        return float(loss)

    def _loss(self, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, batch: Batch) -> Tensor:
        schedule = self.schedule
        if (pairs := batch.pairs) is not None:
            return losses.pairs(images[pairs.images], texts[pairs.texts], pairs.labels, scale, bias)
        groups = batch.image_groups, batch.text_groups
        if schedule.loss == "sigmoid":
            return losses.sigmoid(images, texts, *groups, scale, bias)
        return losses.contrastive(
            images, texts, *groups, scale, schedule.label_smoothing, batch.second_groups, batch.first_share
        )

    def _set_bias(self, data: PairData) -> None:
        """Start the bias where match and mismatch are equally likely, which a learning rate of 5e-6 would never find.

        That is minus the scaled midpoint of the two labels' cosines, plus the prior log-odds of a match.
        """
        order = np.random.default_rng(self.schedule.seed).permutation(len(data))
        rows = [order[data.labels[order] == label][:BIAS_PAIRS] for label in (1, 0)]
        try:
            sample = data.take(np.concatenate(rows)).with_mismatches(self.schedule.seed)
        except InputError:  # all of one product: there is no mismatch to learn from
            return
        cosines = score_pairs(self.encoder, sample)
        middle = (cosines[sample.labels == 1].mean() + cosines[sample.labels == 0].mean()) / 2
        share = float((data.labels == 1).mean())
        if self.schedule.loss == "sigmoid":
            share = 1 / self._batches.texts_per_picture
        share = min(max(share, 0.01), 0.99)
        towers = self.encoder.towers
        with torch.no_grad():
            towers.logit_bias.fill_(math.log(share / (1 - share)) - float(middle) * towers.scale().item())
        workers.copy_from_first([towers.logit_bias.data])

    def _finish_epoch(self) -> None:
        per_epoch = self._batches.per_epoch
        judged = self._evaluated()
        workers.copy_from_first(judged.towers.buffers())  # batch statistics: all judge what rank 0 saves
        epoch: dict[str, float] = {
            "epoch": self._step // per_epoch,
            "step": self._step,
            "train_loss": workers.mean(self._running["loss"] / per_epoch),
            **self._validation.measure(judged),
            "learning_rate": self.schedule.learning_rate * self.schedule.factor(self._step - 1, self.steps),
            "logit_scale": self.encoder.towers.scale().item(),
            "samples_per_s": per_epoch * self._batches.batch_size / self._running["seconds"],
            "data_wait": self._running["waited"] / self._running["seconds"],
        }
        epoch["score"] = self._score(epoch)
        epoch = workers.from_first(epoch)  # all decide alike, were their sums to differ in the last bit
        best = self._is_best(epoch)
        epoch["best"] = float(best)
        self._history.append(epoch)
        self._running = dict.fromkeys(self._running, 0.0)
        self._say({"kind": "epoch", **epoch})
        if best:
            self._publish("best_model")
        self._save(f"checkpoint_epoch_{self._step // per_epoch}")
        self._end_of_epoch(epoch)

    def _score(self, epoch: dict[str, float]) -> float:
        """What chooses the best epoch: the AUROC, or recall@1."""
        auroc = epoch["val_auroc"]
        if self.schedule.choose_by == "auroc" or math.isnan(epoch["val_recall"]):
            return auroc
        return epoch["val_recall"]

    def _is_best(self, epoch: dict[str, float]) -> bool:
        """Better than all before; by recall@1 the later of two that differ by a single query, which decides nothing.

        Late epochs, with a small learning rate, otherwise lose to one that was lucky once.
        """
        before = max((e["score"] for e in self._history), default=float("-inf"))
        if self.schedule.choose_by == "auroc" or math.isnan(epoch["val_recall"]):
            return epoch["score"] > before
        return epoch["score"] >= before - self._validation.one_query - 1e-9

    def _patience_is_over(self) -> bool:
        scores = [epoch["score"] for epoch in self._history]
        patience = self.schedule.patience
        return 0 < patience < len(scores) and max(scores[-patience:]) <= max(scores[:-patience])

    def _evaluated(self) -> Encoder:
        """The model as it is judged and saved: averaged where asked for, adapters merged."""
        encoder = copy.copy(self.encoder)
        if self._average is not None:
            encoder.towers = cast(TwoTower, self._average.module)
        return trainable.merged(encoder)

    def _publish(self, name: str) -> None:
        """Save the model as it is judged now as a directory of the run's folder."""
        encoder = self._evaluated()
        if self._sharded:
            whole, _ = sharding.state(self.encoder.towers, [])
            if workers.rank() == 0:
                self._plain.load_state_dict(whole)
            encoder.towers = self._plain
        self._on_first(lambda: encoder.save(self.folder / name, overwrite=True))

    def _save(self, name: str) -> None:
        """Save the run's state, and the model under `name` where every checkpoint is kept."""
        if self.schedule.save_all:
            self._publish(name)
        running = workers.gathered(self._running)
        towers = self.encoder.towers
        if self.schedule.shard:
            model, optimisers = sharding.state(towers, self._optimisers)
        else:
            model, optimisers = towers.state_dict(), [one.state_dict() for one in self._optimisers]

        def save() -> None:
            RunState(
                step=self._step,
                model=model,
                average=None if self._average is None else self._average.state_dict(),
                optimisers=optimisers,
                history=self._history,
                running=running,
            ).save(self.folder / STATES)
            self._say({"kind": "checkpoint", "step": self._step})

        self._on_first(save)

    def _restore(self, state: RunState) -> None:
        self._step, self._history = state.step, state.history
        if len(state.running) == workers.count():
            self._running = state.running[workers.rank()]
        else:  # other workers than before: each goes on with the mean
            for key in self._running:
                self._running[key] = sum(sums[key] for sums in state.running) / len(state.running)
        if self.schedule.shard:
            sharding.restore(self.encoder.towers, self._optimisers, state.model, state.optimisers)
            return
        self.encoder.towers.load_state_dict(state.model)
        if self._average is not None and state.average is not None:
            self._average.load_state_dict(state.average)
        for optimiser, saved in zip(self._optimisers, state.optimisers, strict=True):
            optimiser.load_state_dict(saved)

    def _on_first(self, write: Callable[[], object]) -> None:
        """Let rank 0 write; a full disk is then an error on every rank, and nobody waits for the one that failed."""
        failure: Exception | None = None
        if workers.rank() == 0:
            try:
                write()
            except SafetensorError as error:  # its name for an OSError
                failure = OSError(f"The model could not be written to {self.folder}: {error}")
            except Exception as error:
                failure = error
        if (failure := workers.from_first(failure)) is not None:
            raise failure

    def _told(self) -> dict[str, float]:
        """Where the run stands, for `_step_event` to tell what came since."""
        return {"step": self._step, **self._running}

    def _step_event(self, told: dict[str, float]) -> Event:
        epoch, within = divmod(self._step - 1, self._batches.per_epoch)
        seconds = self._running["seconds"] - told["seconds"]
        pairs = (self._step - told["step"]) * self._batches.batch_size
        return {
            "kind": "step",
            "epoch": epoch + 1,
            "epochs": self.schedule.epochs,
            "step": self._step,
            "steps": self.steps,
            "loss": self._running["loss"] / (within + 1),
            "learning_rate": self.schedule.learning_rate * self.schedule.factor(self._step - 1, self.steps),
            "logit_scale": self.encoder.towers.scale().item(),
            "samples_per_s": pairs / seconds,
            "data_wait": (self._running["waited"] - told["waited"]) / seconds,
            "seconds": self._running["seconds"],
        }

    def _say(self, event: Event) -> None:
        if workers.rank() == 0:
            self._progress(event)


def _average_fn(decay: float) -> Callable[[Any, Any, Any], None]:
    """Exponential moving average whose decay grows from 0.1: the n-th is min(decay, (1 + n) / (10 + n))."""

    @torch.no_grad()
    def update(averages: list[Tensor], values: list[Tensor], count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)

    return update
