"""Tokens: texts as people write them -> what a model's text tower reads. No weights; it can be pickled and sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from transformers import PreTrainedTokenizerBase

from data_jobs import text


@dataclass(frozen=True)
class Tokens:
    """A model's tokenizer behind the normaliser of data_jobs.text."""

    tokenizer: PreTrainedTokenizerBase
    context_length: int  # tokens; longer texts are cut
    pad_to_context: bool  # as ModelSpec.pad_to_context

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
