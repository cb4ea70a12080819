"""Tokens: texts as people write them -> what a model's text tower reads. No weights; it can be pickled and sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from data_jobs import text
from data_jobs.errors import InputError
from train_jobs.spec import ModelSpec


@dataclass(frozen=True)
class Tokens:
    """A model's tokenizer behind the normaliser of data_jobs.text."""

    tokenizer: PreTrainedTokenizerBase
    context_length: int  # tokens; longer texts are cut
    pad_to_context: bool  # as ModelSpec.pad_to_context

    @classmethod
    def of(cls, folder: Path, spec: ModelSpec) -> "Tokens":
        """Those of the model directory that `spec` describes. Raises InputError (no_tokenizer)."""
        return cls(tokenizer(folder), spec.context_length, spec.pad_to_context)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Normalised, tokenised and cut to the context length, not padded."""
        if not len(texts):
            return []
        encoded = self.tokenizer(
            [text.normalize(t) for t in texts], truncation=True, max_length=self.context_length
        )
        return cast(list[list[int]], encoded["input_ids"])

    def padded(self, ids: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token lists -> ids and mask, int64 [N, L].

        Padded to the longest of the batch, or as SigLIP wants it: to the context length, and nothing masked.
        """
        whole = self.pad_to_context
        batch = self.tokenizer.pad(
            {"input_ids": list(ids)},
            padding="max_length" if whole else True,
            max_length=self.context_length if whole else None,
            return_attention_mask=True,
            return_tensors="pt",
        )
        mask = torch.ones_like(batch["input_ids"]) if whole else batch["attention_mask"]
        return batch["input_ids"], mask


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Raises InputError (no_tokenizer)."""
    from transformers import (
        AutoTokenizer,
    )  # here: it takes seconds, and whoever gets Tokens sent needs it not

    problem = "it knows special tokens only, as one without a vocabulary does"
    try:
        found = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        found, problem = None, str(error).strip().splitlines()[0]
    if found is None or set(found.get_vocab()) <= set(found.all_special_tokens):
        raise InputError(
            "no_tokenizer",
            f"The tokenizer in {folder} cannot be used: {problem}.",
            "Copy the tokenizer's files (tokenizer.json and its like) there; sentencepiece models want "
            "`pip install sentencepiece`.",
        )
    return found
