"""Models to train from scratch, by name: for the demo, for tests, and where no pretrained weights can be had.

    --model-name scratch:tiny-clip   transformers CLIPModel, a small vision transformer, 16 patches of 64 px pictures
    --model-name scratch:resnet      transformers VisionTextDualEncoderModel, a residual network at 160 px

Both bring their own byte-level BPE tokenizer, trained on the training texts, so any language works. `scratch:text` is
the latter's text tower alone, for train_jobs.two_towers.
"""

from collections.abc import Callable, Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ResNetConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs.encoder import Encoder
from train_jobs.spec import Family, ModelSpec

PREFIX = "scratch:"
TEXT = "scratch:text"
CONTEXT_LENGTH = 77
MEAN = STD = (0.5, 0.5, 0.5)
LOGIT_SCALE = 1 / 0.07  # initial temperature 0.07 (Radford et al. 2021)


def build(name: str, texts: Iterable[str], seed: int = 0) -> Encoder:
    """A freshly initialised model whose tokenizer was trained on `texts`. Raises InputError (unknown_recipe)."""
    check_name(name)
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(seed)
    family, image_size, make = RECIPES[name]
    model = make(tokenizer, image_size)
    spec = ModelSpec(
        base_model=name,
        base_revision=None,
        family=family,
        embedding_dim=model.config.projection_dim,
        image_size=image_size,
        image_resize="squash",
        image_shortest=image_size,
        image_resample="bicubic",
        image_mean=MEAN,
        image_std=STD,
        context_length=CONTEXT_LENGTH,
        pad_to_context=False,
        text_normalizer=text.VERSION,
        logit_scale=LOGIT_SCALE,
        logit_bias=0.0,
    )
    return Encoder(model, tokenizer, spec, device="cpu")


def check_name(name: str) -> None:
    """Raise InputError (unknown_recipe) unless there is a recipe `name`."""
    if name not in RECIPES:
        raise InputError(
            "unknown_recipe", f"There is no recipe {name!r}.", f"Use one of {', '.join(RECIPES)}."
        )


def train_tokenizer(texts: Iterable[str], vocabulary: int = 4096) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with start, end and padding tokens, trained on normalised `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    start, end, pad = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        # The end must not get id 2: for transformers' CLIP that means "pool at the highest id instead".
        special_tokens=[pad, start, "<|reserved|>", end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted({text.normalize(t) for t in texts}), trainer)
    ids = {token: tokenizer.token_to_id(token) for token in (start, end)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=list(ids.items())
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=end,
        pad_token=pad,
        model_max_length=CONTEXT_LENGTH,
    )


def _tiny_clip(tokenizer: PreTrainedTokenizerFast, image_size: int) -> PreTrainedModel:
    tower = {"num_attention_heads": 4, "hidden_act": "gelu"}
    return CLIPModel(
        CLIPConfig(
            text_config=dict(
                **tower,
                hidden_size=128,
                intermediate_size=256,
                num_hidden_layers=2,
                vocab_size=len(tokenizer),
                max_position_embeddings=CONTEXT_LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            vision_config=dict(
                **tower,
                hidden_size=160,
                intermediate_size=480,
                num_hidden_layers=4,
                image_size=image_size,
                patch_size=16,
            ),
            projection_dim=128,
        )
    )


def _resnet(tokenizer: PreTrainedTokenizerFast, image_size: int) -> PreTrainedModel:
    widths = [32, 64, 128, 256]
    vision = ResNetConfig(
        embedding_size=widths[0],
        hidden_sizes=widths,
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_size=widths[-1],  # what VisionTextDualEncoderModel projects from
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, _text_config(tokenizer), projection_dim=128
    )
    model = VisionTextDualEncoderModel(config)
    with torch.no_grad():
        for module in model.vision_model.modules():
            if isinstance(
                module, ResNetBasicLayer
            ):  # residual branches start at zero (Goyal et al. 2017, 5.1)
                module.layer[-1].normalization.weight.zero_()
    _start_as_bag_of_words(model.text_model, tokenizer)
    return model


def text_tower(tokenizer: PreTrainedTokenizerFast) -> BertModel:
    """A small BERT for `tokenizer`, freshly initialised."""
    model = BertModel(_text_config(tokenizer))
    _start_as_bag_of_words(model, tokenizer)
    return model


def _text_config(tokenizer: PreTrainedTokenizerFast) -> BertConfig:
    return BertConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.09,
        vocab_size=len(tokenizer),
        max_position_embeddings=CONTEXT_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        type_vocab_size=1,
    )


def _start_as_bag_of_words(text_model: BertModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make a new text tower see words without order.

    Its pooled first token holds nothing of its own and positions nothing yet, so that attention fills it with the
    words. As initialised, all texts look nearly the same.
    """
    embeddings = text_model.embeddings
    with torch.no_grad():
        embeddings.word_embeddings.weight[tokenizer.bos_token_id].zero_()
        embeddings.position_embeddings.weight.zero_()
        embeddings.token_type_embeddings.weight.zero_()


RECIPES: dict[str, tuple[Family, int, Callable[[PreTrainedTokenizerFast, int], PreTrainedModel]]] = {
    "scratch:tiny-clip": ("clip", 64, _tiny_clip),
    "scratch:resnet": ("dual", 160, _resnet),
}
