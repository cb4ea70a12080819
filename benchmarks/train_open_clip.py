"""open_clip's own training loop on a model and pictures of ours, for benchmarks.train.

What open_clip_train.main puts together for one process: its arguments, CsvDataset, DataLoader and training transform,
its HFTokenizer on our tokenizer's files, ClipLoss, cosine_lr and train_one_epoch. Only the model is ours, and AdamW is
the fused one, as for the others. (Its `adamw` is the same algorithm, one operation at a time.)
"""

import importlib.metadata
import math
import multiprocessing
import os
import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OpenClip:
    """One run of it."""

    site: Path | None  # where it is installed, if not beside this project
    model: Path
    csv: Path  # filepath and title, tab-separated
    context: int  # tokens that every text is padded to
    precision: str
    batch_size: int
    epochs: int
    learning_rate: float
    weight_decay: float
    gradient_clip: float
    warmup_steps: int
    loader_workers: int
    seed: int


@dataclass(frozen=True)
class Steps:
    """What its loop tells of every step: float [epochs x steps each]."""

    seconds: list[float]
    waited: list[float]
    losses: list[float]


class Adapter(nn.Module):
    """The face of an open_clip model on a TwoTower: normalised pixels and padded ids in, a dictionary out."""

    def __init__(self, towers: nn.Module, pad: int) -> None:
        super().__init__()
        self.towers, self.pad = towers, pad
        self.logit_scale = towers.model.logit_scale  # train_one_epoch clamps it

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        pooled = self.towers.model.vision_model(image).pooler_output.flatten(1)
        return {
            "image_features": self.towers.image(pooled),
            "text_features": self.towers.text(text, (text != self.pad).long()),
            "logit_scale": self.logit_scale.exp(),
        }


class _Log:
    """Keeps what train_one_epoch writes to TensorBoard."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = defaultdict(list)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.values[name].append(value)


def version(site: Path | None) -> str | None:
    """The version of open_clip that can be imported, None without one that has its training loop."""
    places = [str(site)] if site else sys.path
    found = next(iter(importlib.metadata.distributions(name="open_clip_torch", path=places)), None)
    return found.version if found else None


def run(job: OpenClip) -> Steps:
    """Train on one thread, beside the loader's processes."""
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # Linux's own; a spawned process hands its method on
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tokenizers warn about the loader's forks
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    if job.site:
        sys.path.append(str(job.site))
    _import_torchvision()
    from open_clip.loss import ClipLoss
    from open_clip.tokenizer import HFTokenizer
    from open_clip.transform import image_transform
    from open_clip_train.data import get_csv_dataset
    from open_clip_train.params import parse_args
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    from train_jobs.encoder import Encoder

    args = parse_args(
        [
            *("--train-data", str(job.csv), "--dataset-type", "csv"),
            *("--batch-size", str(job.batch_size), "--workers", str(job.loader_workers)),
            *("--precision", "amp_bfloat16" if job.precision == "bfloat16" else "fp32"),
            *("--lr", str(job.learning_rate), "--wd", str(job.weight_decay), "--beta1", "0.9"),
            *("--beta2", "0.999", "--eps", "1e-8", "--grad-clip-norm", str(job.gradient_clip)),
            *("--log-every-n-steps", "1"),
        ]
    )
    args.distributed, args.rank, args.world_size, args.device = False, 0, 1, "cpu"  # as its main sets them
    args.wandb = args.distill = False
    torch.manual_seed(job.seed)
    encoder = Encoder.load(job.model, device="cpu")
    spec = encoder.spec
    transform = image_transform(spec.image_size, is_train=True, mean=spec.image_mean, std=spec.image_std)
    tokenizer = HFTokenizer(str(job.model), context_length=job.context)
    data = get_csv_dataset(args, transform, is_train=True, tokenizer=tokenizer)
    model = Adapter(encoder.towers, encoder.tokenizer.pad_token_id)
    model.towers.logit_bias.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": args.wd},
        ],
        lr=args.lr,
        betas=(args.beta1, args.beta2),
        eps=args.eps,
        fused=True,
    )
    steps = data.dataloader.num_batches * job.epochs
    scheduler = cosine_lr(optimiser, args.lr, job.warmup_steps, steps)
    log = _Log()
    for epoch in range(job.epochs):
        train_one_epoch(
            model, {"train": data}, ClipLoss(), epoch, optimiser, None, scheduler, None, args, log
        )
    seconds, waited, losses = (log.values[f"train/{name}"] for name in ("batch_time", "data_time", "loss"))
    if not len(losses) == steps or not math.isfinite(losses[-1]):
        raise RuntimeError(f"open_clip made {len(losses)} of {steps} steps, the last loss is {losses[-1:]}")
    return Steps(seconds, waited, losses)


def _import_torchvision() -> None:
    """PyPI's torchvision is built against CUDA. Beside a CPU build of torch its compiled operators do not load, and its
    import fails at the one that it describes all the same; open_clip uses none of them."""
    try:
        import torchvision
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _LIBRARY.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            _LIBRARY[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_LIBRARY: list[torch.library.Library] = []
"""Its operators are gone with the object."""
