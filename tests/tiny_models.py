"""Checkpoint directories of real transformers models with a few random layers, as others publish them: no spec.json."""

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
)

from data_jobs.drawing import Product, draw
from train_jobs import scratch

TEXTS = [
    "a mug", "a plain blue sofa beside a lamp on a wooden floor", "ماگ قرمز", "lamp",
    "کیک شکلاتی با گردو و خامه در ظرف سفید روی میز چوبی", "a red mug on wood", "",
]  # fmt: skip
SIZES = [(91, 37), (64, 64), (33, 200), (299, 301), (17, 20), (63, 65), (640, 427)]
LAYERS: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
SIGLIP_SCALE = 117.33  # of google/siglip-base-patch16-224, beyond CLIP's bound
SIGLIP_BIAS = -12.93


def photos() -> list[Image.Image]:
    """Drawn products cut to odd shapes."""
    products = [Product("mug", "red", "striped", "wooden table", number) for number in range(len(SIZES))]
    return [
        draw(product, max(size)).crop((0, 0, *size)) for product, size in zip(products, SIZES, strict=True)
    ]


def tokenizer(**facts: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of TEXTS."""
    found = scratch.train_tokenizer(TEXTS)
    return PreTrainedTokenizerFast(tokenizer_object=found.backend_tokenizer, **found.init_kwargs | facts)


def gemma_tokenizer() -> Siglip2Tokenizer:
    """As SigLIP 2 has it: BPE that falls back to bytes. transformers takes no other for a Siglip2Model."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokens = [
        *special,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *sorted(set("▁".join(TEXTS)) - {" "}),
        "mu",
    ]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Siglip2Tokenizer(vocab=vocabulary, merges=[("m", "u")], padding_side="right")


def clip_processor(side: int = 32, **facts: Any) -> CLIPImageProcessorPil:
    square = {"height": side, "width": side}
    return CLIPImageProcessorPil(**{"size": {"shortest_edge": side}, "crop_size": square} | facts)


def clip(folder: Path) -> Path:
    """CLIPModel, 32 pixels, 24 dimensions."""
    words = tokenizer()
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**LAYERS, **special, "vocab_size": len(words), "max_position_embeddings": 20},
        vision_config={**LAYERS, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPProcessor(clip_processor(), words).save_pretrained(folder)
    return folder


def clip_vision(folder: Path) -> Path:
    """CLIPVisionModel alone, 32 pixels."""
    torch.manual_seed(0)
    CLIPVisionModel(CLIPVisionConfig(**LAYERS, image_size=32, patch_size=8)).save_pretrained(folder)
    clip_processor(image_mean=[0.4, 0.5, 0.6]).save_pretrained(folder)
    return folder


def bert(folder: Path, **facts: Any) -> Path:
    """BertModel with a tokenizer."""
    words = tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        **LAYERS, vocab_size=len(words), max_position_embeddings=40, pad_token_id=words.pad_token_id, **facts
    )
    BertModel(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def siglip(folder: Path, **of_tokenizer: Any) -> Path:
    """SiglipModel, 32 pixels by the bilinear filter, as SigLIP 2 of one resolution."""
    words = tokenizer(**of_tokenizer)
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(
            text_config=_siglip_text(words), vision_config={**LAYERS, "image_size": 32, "patch_size": 8}
        )
    )
    _set_scale(model)
    model.save_pretrained(folder)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)
    SiglipProcessor(processor, words).save_pretrained(folder)
    return folder


def siglip2(folder: Path) -> Path:
    """Siglip2Model (NaFlex), at most 16 patches of 8 pixels: 32 pixels square; trained at 25."""
    words = gemma_tokenizer()
    torch.manual_seed(0)
    model = Siglip2Model(
        Siglip2Config(
            text_config=_siglip_text(words), vision_config={**LAYERS, "num_patches": 25, "patch_size": 8}
        )
    )
    _set_scale(model)
    model.save_pretrained(folder)
    Siglip2Processor(Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16), words).save_pretrained(
        folder
    )
    return folder


def _siglip_text(words: PreTrainedTokenizerBase) -> dict[str, Any]:
    special = {name: getattr(words, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {**LAYERS, **special, "vocab_size": len(words), "max_position_embeddings": 64}


def _set_scale(model: SiglipModel | Siglip2Model) -> None:
    model.logit_scale.data.fill_(math.log(SIGLIP_SCALE))
    model.logit_bias.data.fill_(SIGLIP_BIAS)
