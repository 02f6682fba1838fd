"""How one answer's tokens are chosen: a chain of llama.cpp's samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import llama_cpp

from models.engine import Sampling

#: How many of an answer's last tokens penalties look at.
PENALTY_WINDOW: Final = 256


class ChainSampler:
    """A chain of llama.cpp's samplers, freed with this object."""

    def __init__(
        self,
        context: Any,
        vocabulary: int,
        sampling: Sampling,
        generated: Sequence[int],
        rows: Callable[[], list[int]],
    ) -> None:
        self._context = context
        self._rows = rows
        chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self._chain: Any = chain

        def add(sampler: Any) -> None:
            llama_cpp.llama_sampler_chain_add(chain, sampler)

        if sampling.logit_bias:
            pairs = [llama_cpp.llama_logit_bias(*pair) for pair in sampling.logit_bias]
            biases = (llama_cpp.llama_logit_bias * len(pairs))(*pairs)
            add(llama_cpp.llama_sampler_init_logit_bias(vocabulary, len(biases), biases))
        penalties = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        if penalties != (1.0, 0.0, 0.0):
            add(llama_cpp.llama_sampler_init_penalties(vocabulary, PENALTY_WINDOW, *penalties))
        if sampling.temperature <= 0:
            add(llama_cpp.llama_sampler_init_greedy())
        else:
            if sampling.top_k > 0:
                add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
            if sampling.top_p < 1:
                add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
            if sampling.min_p > 0:
                add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
            add(llama_cpp.llama_sampler_init_temp(sampling.temperature))
            seed = llama_cpp.LLAMA_DEFAULT_SEED if sampling.seed is None else sampling.seed
            add(llama_cpp.llama_sampler_init_dist(seed & 0xFFFFFFFF))
        for token in generated:
            llama_cpp.llama_sampler_accept(chain, token)

    def sample(self, row: int) -> int:
        index = self._rows()[row]
        return int(llama_cpp.llama_sampler_sample(self._chain, self._context, index))

    def __del__(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)
