"""What of a model is trained: frozen towers, low-rank adapters, recomputed activations, and back to plain weights."""

import copy
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from data_jobs.errors import InputError
from train_jobs.encoder import Encoder
from train_jobs.schedule import Schedule
from train_jobs.towers import TwoTower

_HEADS = {"vision": "visual_projection", "text": "text_projection"}


def prepare(encoder: Encoder, schedule: Schedule) -> None:
    """Freeze, adapt and checkpoint `encoder`'s model in place, as `schedule` says.

    Scale and bias are always trained. A frozen tower's projection is frozen with it, unless it is a new one.
    Raises InputError (cannot_adapt, cannot_checkpoint, cannot_shard, cannot_mix).
    """
    towers = encoder.towers
    if schedule.shard and (schedule.average or schedule.lora.rank):
        raise InputError(
            "cannot_shard",
            f"A moving average ({schedule.average}) or adapters (rank {schedule.lora.rank}) cannot be sharded here.",
            "Leave --shard out, or use --average 0 --lora.rank 0.",
        )
    if schedule.augmentation.cutmix and schedule.loss == "sigmoid":
        raise InputError(
            "cannot_mix",
            "CutMix pictures show two things, which --loss sigmoid has no labels for.",
            "Use --loss contrastive or pairs, or --augmentation.cutmix 0.",
        )
    if schedule.gradient_checkpointing:
        if not towers.model.supports_gradient_checkpointing:
            raise InputError(
                "cannot_checkpoint",
                f"A {type(towers.model).__name__} cannot recompute its activations.",
                "Leave --gradient-checkpointing out; use --accumulate to save memory.",
            )
        towers.model.gradient_checkpointing_enable({"use_reentrant": False})
    if schedule.freeze != "none":
        for parameter in tower(towers, schedule.freeze).parameters():
            parameter.requires_grad_(False)
        head = getattr(towers.model, _HEADS[schedule.freeze], None)
        if head is not None and not (schedule.new_text_head and schedule.freeze == "text"):
            head.requires_grad_(False)
    for name, parameter in towers.named_parameters():
        if name.endswith("mask_token"):  # for pretraining on masked pictures only; DDP waits for its gradient
            parameter.requires_grad_(False)
    if schedule.lora.rank:
        _adapt(towers, schedule)


def tower(towers: TwoTower, name: str) -> nn.Module:
    """The "vision" or the "text" tower, without its projection."""
    return cast(nn.Module, towers.model.vision_model if name == "vision" else towers.model.text_model)


def training_mode(towers: TwoTower, schedule: Schedule) -> None:
    """Dropout and batch statistics on, but not in a frozen tower, whose outputs must not change."""
    towers.train()
    if schedule.freeze != "none":
        tower(towers, schedule.freeze).eval()


def merged(encoder: Encoder) -> Encoder:
    """`encoder` with adapters merged into plain weights; itself where there are none."""
    if not isinstance(encoder.towers.model, PeftModel):
        return encoder
    plain = copy.copy(encoder)
    plain.towers = copy.deepcopy(encoder.towers)
    plain.towers.model = cast(PreTrainedModel, cast(Any, plain.towers.model).merge_and_unload())
    return plain


def _adapt(towers: TwoTower, schedule: Schedule) -> None:
    trained = [name for name in ("vision", "text") if name != schedule.freeze]
    within = {id(module) for name in trained for module in tower(towers, name).modules()}
    linear = [
        name
        for name, module in towers.model.named_modules()
        # Not a subclass: nn.MultiheadAttention (SigLIP's pooling) reads its output layer's weight past any adapter.
        if type(module) is nn.Linear and id(module) in within
    ]
    if not linear:
        raise InputError(
            "cannot_adapt",
            "There is no linear layer in the towers to be trained, so LoRA has nothing to adapt.",
            "Use --lora.rank 0 for convolutional towers.",
        )
    lora = schedule.lora
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=linear, bias="none"
    )
    torch.manual_seed(schedule.seed)  # adapters start at random
    towers.model = cast(PreTrainedModel, get_peft_model(towers.model, config))
    for parameter in (towers.model.logit_scale, towers.logit_bias):
        parameter.requires_grad_(True)
    if schedule.new_text_head:
        getattr(towers.model, _HEADS["text"]).requires_grad_(True)
