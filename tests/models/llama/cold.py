"""Answers against a context of llama.cpp that has seen nothing else."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import llama_cpp
import numpy as np

from models.llama.loaded_model import LoadedModel

#: So far may a token be from the best one of a cold context. Rounding moves tiny models' logits by
#: thousandths, a token too much or too few in the past by whole numbers.
NEAR: Final = 0.05


def check_answer(
    model: LoadedModel, prompt: Sequence[int], answer: Sequence[int], near: float = NEAR
) -> None:
    """Each token of a greedy answer is the best one there, or off by ``near`` at most."""
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 512, 1, 1
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama_cpp.llama_init_from_model(model.pointer, params)
    size = llama_cpp.llama_vocab_n_tokens(model.vocab)
    new = list(prompt)
    for place, token in enumerate(answer):
        tokens = (ctypes.c_int32 * len(new))(*new)
        assert not llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, len(new)))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,))
        assert logits[token] > logits.max() - near, f"token {place} is not from this prompt"
        new = [token]
    llama_cpp.llama_free(context)
