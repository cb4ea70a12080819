"""Losses: worked by hand, and with two real worker processes the same gradients as in one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn, tensor
from torch.nn.functional import logsigmoid, normalize
from torch.nn.parallel import DistributedDataParallel

from train_jobs.losses import NO_GROUP, contrastive, gather, pairs, sigmoid

ONE = tensor(1.0)
AXES = torch.eye(3)


def _groups(*values: int) -> Tensor:
    return tensor(values)


def _units(rows: int, width: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_two_orthogonal_pairs() -> None:
    """Each anchor sees its match at cosine 1 and a stranger at cosine 0."""
    loss = contrastive(AXES[:2], AXES[:2], _groups(0, 1), _groups(0, 1), tensor(3.0))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-3)))
    assert loss.dtype == torch.float32 and loss.shape == ()


def test_both_directions_count_half() -> None:
    """Picture 0 is as near to text 1 as to its own; text 1 has an own picture that is nearer."""
    images = AXES[:2]
    texts = torch.stack([AXES[0], (AXES[0] + AXES[1]) / math.sqrt(2)])
    a, h = 1.0, 1 / math.sqrt(2)  # cosines: picture 0 has [1, h], picture 1 has [0, h]
    e = math.exp
    of_images = -math.log(e(a) / (e(a) + e(h))) - math.log(e(h) / (e(0) + e(h)))
    of_texts = -math.log(e(a) / (e(a) + e(0))) - math.log(e(h) / (e(h) + e(h)))
    found = contrastive(images, texts, _groups(0, 1), _groups(0, 1), ONE)
    assert found.item() == pytest.approx((of_images / 2 + of_texts / 2) / 2)


def test_several_positives_share_the_target() -> None:
    """One picture, its two texts at cosines 1 and 0, a stranger's text at cosine 0."""
    total = math.e + 2
    of_image = -(math.log(math.e / total) + math.log(1 / total)) / 2
    found = contrastive(AXES[:1], AXES, _groups(5), _groups(5, 5, 9), ONE)
    assert found.item() == pytest.approx(of_image / 2)  # with one picture the texts' direction is certain: 0


def test_anchors_without_a_positive_are_left_out_but_stay_candidates() -> None:
    with_stranger = contrastive(AXES[:2], AXES[:2], _groups(0, 7), _groups(0, 1), ONE)
    # picture 0 and text 0 are the only anchors; each is contrasted with the other side's stranger at cosine 0
    assert with_stranger.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_a_batch_without_any_match_has_no_loss_and_no_gradient() -> None:
    images = AXES[:2].clone().requires_grad_()
    loss = contrastive(images, AXES[:2], _groups(0, 1), _groups(2, 3), ONE)
    loss.backward()
    assert loss.item() == 0
    assert images.grad is not None and not images.grad.any()


def test_padding_rows_change_nothing() -> None:
    images, texts = _units(5, 8, 0), _units(4, 8, 1)
    image_groups, text_groups = _groups(0, 1, 2, 2, 3), _groups(0, 1, 2, 3)
    plain = contrastive(images, texts, image_groups, text_groups, tensor(9.0))
    padding = _units(3, 8, 2).requires_grad_()
    padded = contrastive(
        torch.cat([images, padding]),
        torch.cat([texts, padding]),
        torch.cat([image_groups, _groups(*[NO_GROUP] * 3)]),
        torch.cat([text_groups, _groups(*[NO_GROUP] * 3)]),
        tensor(9.0),
    )
    padded.backward()
    assert padded.item() == pytest.approx(plain.item(), rel=1e-6)
    assert padding.grad is not None and not padding.grad.any()


def test_only_padding_is_finite() -> None:
    images, texts = _units(2, 8, 0).requires_grad_(), _units(2, 8, 1).requires_grad_()
    loss = contrastive(images, texts, _groups(NO_GROUP, 0), _groups(NO_GROUP, NO_GROUP), ONE)
    loss.backward()
    assert loss.item() == 0
    for rows in (images, texts):
        assert rows.grad is not None and rows.grad.isfinite().all()


def test_half_precision_embeddings_are_compared_in_float32() -> None:
    images, texts = _units(6, 16, 0).bfloat16(), _units(6, 16, 1).bfloat16()
    groups = torch.arange(6)
    found = contrastive(images, texts, groups, groups, tensor(50.0))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(
        contrastive(images.float(), texts.float(), groups, groups, tensor(50.0)).item()
    )


def test_pairs_is_binary_cross_entropy_of_scaled_cosines() -> None:
    images = AXES[[0, 0, 0]]
    texts = torch.stack([AXES[0], AXES[1], (0.6 * AXES[0] + 0.8 * AXES[1])])
    cosines, labels = [1.0, 0.0, 0.6], [1, 0, 0]
    scale, bias = 4.0, -2.5
    expected = 0.0
    for cosine, label in zip(cosines, labels, strict=True):
        p = 1 / (1 + math.exp(-(scale * cosine + bias)))
        expected -= math.log(p if label else 1 - p) / 3
    found = pairs(images, texts, tensor(labels), tensor(scale), tensor(bias))
    assert found.item() == pytest.approx(expected)
    assert found.dtype == torch.float32


def test_pairs_equals_torch_bce_and_survives_extreme_logits() -> None:
    images, texts = _units(32, 8, 0), _units(32, 8, 1)
    labels = torch.arange(32) % 2
    p = torch.sigmoid(7 * (images * texts).sum(-1) - 1)
    assert pairs(images, texts, labels, tensor(7.0), tensor(-1.0)).item() == pytest.approx(
        nn.BCELoss()(p, labels.float()).item(), rel=1e-5
    )
    assert pairs(images, images, torch.zeros(32), tensor(1e4), tensor(0.0)).item() == pytest.approx(1e4)


def test_a_picture_with_a_piece_of_another_belongs_to_both() -> None:
    """Picture 0 is of group 0 by three quarters, else of group 1; picture 1 of group 1 by nine tenths, else of 0."""
    images, texts = AXES[:2], AXES[:2]
    loss = contrastive(
        images, texts, _groups(0, 1), _groups(0, 1), ONE, 0.0, _groups(1, 0), tensor([0.75, 0.9])
    )
    own, other = (math.log(share / (math.e + 1)) for share in (math.e, 1))  # cosines 1 and 0
    of_images = 0.75 * own + 0.25 * other, 0.9 * own + 0.1 * other
    # text 0 is shown by 0.75 of picture 0 and by 0.1 of picture 1; text 1 by 0.9 of picture 1 and 0.25 of picture 0
    of_texts = (0.75 * own + 0.1 * other) / 0.85, (0.9 * own + 0.25 * other) / 1.15
    assert loss.item() == pytest.approx(-(sum(of_images) / 2 + sum(of_texts) / 2) / 2)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_pieces_of_one_s_own_kind_or_of_no_size_change_nothing(smoothing: float) -> None:
    images, texts, scale = _units(5, 8, 0), _units(4, 8, 1), tensor(9.0)
    groups = _groups(0, 1, 2, 2, NO_GROUP), _groups(0, 1, 2, NO_GROUP)
    plain = contrastive(images, texts, *groups, scale, smoothing)
    for second, share in ((groups[0], torch.full((5,), 0.3)), (_groups(1, 2, 0, 0, 1), torch.ones(5))):
        assert contrastive(images, texts, *groups, scale, smoothing, second, share).item() == pytest.approx(
            plain.item(), rel=1e-5
        )


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_sigmoid_worked_by_hand() -> None:
    """Two pictures and three texts: matches at cosines 1 and 0.6, mismatches at 0, 0.8, 0 and 1."""
    images = AXES[:2]
    texts = torch.stack([AXES[0], 0.8 * AXES[0] + 0.6 * AXES[1], AXES[1]])
    scale, bias = 2.0, -1.5
    matches = math.log(_sigmoid(2 * 1 - 1.5)) + math.log(_sigmoid(2 * 0.6 - 1.5))
    mismatches = sum(math.log(_sigmoid(-(2 * cosine - 1.5))) for cosine in (0.8, 0.0, 0.0, 1.0))
    found = sigmoid(images, texts, _groups(4, 5), _groups(4, 5, 6), tensor(scale), tensor(bias))
    assert found.item() == pytest.approx(-(matches + mismatches) / 2)
    assert found.dtype == torch.float32 and found.shape == ()


def test_sigmoid_is_the_published_one() -> None:
    """Algorithm 1 of Zhai et al. 2023: labels = 2 * eye(n) - ones(n), -sum(log_sigmoid(labels * logits)) / n."""
    images, texts = _units(7, 8, 0), _units(7, 8, 1)
    logits = images @ texts.T * math.exp(math.log(10)) - 10
    expected = -logsigmoid((2 * torch.eye(7) - 1) * logits).sum() / 7
    groups = torch.arange(7)
    assert sigmoid(images, texts, groups, groups, tensor(10.0), tensor(-10.0)).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_sigmoid_knows_several_matches() -> None:
    images = AXES[[0, 0]]
    one = -math.log(_sigmoid(3))  # four pairs of one group at cosine 1, two for each picture
    found = sigmoid(images, images, _groups(1, 1), _groups(1, 1), tensor(3.0), tensor(0.0))
    assert found.item() == pytest.approx(2 * one)


@pytest.mark.parametrize("padded", ["texts", "both"])
def test_sigmoid_takes_no_account_of_padding(padded: str) -> None:
    images, texts = _units(5, 8, 0), _units(4, 8, 1)
    image_groups, text_groups = _groups(0, 1, 2, 2, 3), _groups(0, 1, 2, 3)
    scale, bias = tensor(9.0), tensor(-3.0)
    plain = sigmoid(images, texts, image_groups, text_groups, scale, bias)
    padding, nobody = _units(3, 8, 2).requires_grad_(), _groups(*[NO_GROUP] * 3)
    if padded == "both":
        images, image_groups = torch.cat([images, padding]), torch.cat([image_groups, nobody])
    found = sigmoid(
        images, torch.cat([texts, padding]), image_groups, torch.cat([text_groups, nobody]), scale, bias
    )
    found.backward()
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    assert padding.grad is not None and not padding.grad.any()


def test_sigmoid_of_nothing_but_padding_is_nothing() -> None:
    images, texts = _units(2, 8, 0).requires_grad_(), _units(2, 8, 1).requires_grad_()
    nobody = _groups(NO_GROUP, NO_GROUP)
    loss = sigmoid(images, texts, nobody, nobody, ONE, tensor(0.0))
    loss.backward()
    assert loss.item() == 0
    for rows in (images, texts):
        assert rows.grad is not None and not rows.grad.any()


def test_sigmoid_is_computed_in_float32_and_survives_extreme_logits() -> None:
    images, groups = _units(6, 16, 0), torch.arange(6)
    half, bias = images.bfloat16(), tensor(-10.0)
    found = sigmoid(half, half, groups, groups, tensor(50.0), bias)
    assert found.dtype == torch.float32
    full = sigmoid(half.float(), half.float(), groups, groups, tensor(50.0), bias)
    assert found.item() == pytest.approx(full.item())
    extreme = sigmoid(AXES[:1], AXES[:1], _groups(0), _groups(1), tensor(1e4), tensor(0.0))
    assert extreme.item() == pytest.approx(1e4)


# One process against two, over gloo as `finetune` runs it on CPUs.

PICTURES, TEXTS, WIDTH = 8, 6, 5


class _Towers(nn.Module):
    """The least model with all that a real one trains: two towers, a scale and a bias."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.image_tower, self.text_tower = nn.Linear(7, WIDTH), nn.Linear(9, WIDTH)
        self.log_scale, self.bias = nn.Parameter(tensor(1.2)), nn.Parameter(tensor(-0.3))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return (
            normalize(self.image_tower(images), dim=-1),
            normalize(self.text_tower(texts), dim=-1),
            self.log_scale.exp(),
            self.bias * 1.0,
        )


def _case(name: str, rank: int, workers: int, model: nn.Module) -> Tensor:
    """This worker's loss on its share of one fixed global batch."""
    generator = torch.Generator().manual_seed(11)
    image_rows = torch.randn(PICTURES, 7, generator=generator)
    text_rows = torch.randn(PICTURES if name == "pairs" else TEXTS, 9, generator=generator)
    mine = slice(rank * PICTURES // workers, (rank + 1) * PICTURES // workers)
    if name == "pairs":
        labels = tensor([1, 0, 0, 1, 1, 1, 0, 1])
        images, texts, scale, bias = model(image_rows[mine], text_rows[mine])
        return pairs(images, texts, labels[mine], scale, bias)
    # In "uneven" the first worker has fewer anchors with a match than the second, and a padded text.
    image_groups, text_groups = {
        "even": (_groups(0, 1, 2, 3, 4, 5, 0, 1), _groups(0, 1, 2, 3, 4, 5)),
        "uneven": (_groups(0, NO_GROUP, 9, 8, 1, 2, 1, 0), _groups(0, 1, 1, 2, NO_GROUP, 7)),
    }[name.removeprefix("sigmoid ").removeprefix("mixed ")]
    images, texts, scale, bias = model(image_rows[mine], text_rows[rank::workers])
    if name.startswith("sigmoid"):
        return sigmoid(images, texts, image_groups[mine], text_groups[rank::workers], scale, bias)
    second, first_share = image_groups.roll(PICTURES // 2)[mine], torch.linspace(0.1, 0.9, PICTURES)[mine]
    share = contrastive(
        images,
        texts,
        image_groups[mine],
        text_groups[rank::workers],
        scale,
        0.1,
        *((second, first_share) if name.startswith("mixed") else ()),
    )
    return share + 0.0 * bias


def _loss_and_gradients(name: str, rank: int, workers: int) -> dict[str, Any]:
    towers = _Towers()
    model: nn.Module = DistributedDataParallel(towers) if workers > 1 else towers
    loss = _case(name, rank, workers, model)
    loss.backward()
    return {"loss": loss.detach(), **{key: value.grad for key, value in towers.named_parameters()}}


def _gather_twice(rank: int) -> Tensor:
    """The gradient of rows that are gathered beside others, where autograd hands both the same buffer."""
    rows = torch.full((2, 1), 1.0, requires_grad=True)
    weights = tensor([[1.0], [2.0], [3.0], [4.0]]) * (rank + 1)
    ((gather(rows)[0] + gather(torch.zeros(2, 1, requires_grad=True))[0]) * weights).sum().backward()
    assert rows.grad is not None
    return rows.grad


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results: dict[str, Any] = {name: _loss_and_gradients(name, rank, 2) for name in CASES}
    results["gathered"] = gather(tensor([[10.0 * rank], [10.0 * rank + 1]]), tensor([[-1.0 * rank]]))
    results["gather twice"] = _gather_twice(rank)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


CASES = ("even", "uneven", "mixed uneven", "pairs", "sigmoid even", "sigmoid uneven")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("two-workers")
    torch.multiprocessing.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_workers_compute_the_loss_of_one(two_workers: list[dict[str, Any]], case: str) -> None:
    alone = _loss_and_gradients(case, 0, 1)
    shares = [found[case]["loss"] for found in two_workers]
    assert shares[0] != shares[1]
    torch.testing.assert_close(sum(shares) / 2, alone["loss"])


@pytest.mark.parametrize("case", CASES)
def test_two_workers_compute_the_gradients_of_one(two_workers: list[dict[str, Any]], case: str) -> None:
    """Also of scale and bias, which every worker holds a copy of (open_clip issue 761)."""
    alone = _loss_and_gradients(case, 0, 1)
    assert alone["image_tower.weight"].abs().max() > 1e-3
    assert alone["text_tower.weight"].abs().max() > 1e-3
    assert abs(alone["log_scale"]) > 1e-3
    assert (abs(alone["bias"]) > 1e-3) == case.startswith(("pairs", "sigmoid"))
    for found in two_workers:
        torch.testing.assert_close(found[case], found[case] | {k: v for k, v in alone.items() if k != "loss"})


def test_gather_is_in_rank_order_and_differentiable(two_workers: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(two_workers):
        rows, beside = found["gathered"]
        assert rows.flatten().tolist() == [0, 1, 10, 11] and beside.flatten().tolist() == [0, -1]
        # rank 1 weights rows twice as rank 0 does, and both weigh 1, 2 | 3, 4
        assert found["gather twice"].flatten().tolist() == [[3, 6], [9, 12]][rank]


def test_alone_gather_changes_nothing() -> None:
    assert gather(AXES)[0] is AXES
