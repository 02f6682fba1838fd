"""How one answer's tokens are chosen: a chain of llama.cpp's samplers, and a grammar beside it.

The chain is that of llama.cpp's own `common_sampler_init`, in its order and without what Hearth
does not offer: biases, penalties, top_k, typical_p, top_p, min_p, temperature, and a random draw.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import llama_cpp
import numpy as np

from models.engine import Alternative, Sampling, TokenLogprob
from models.llama.grammar import ROOT, check_grammar
from models.llama.json_schema import schema_grammar
from overlay.errors import InvalidRequest

#: How many of an answer's last tokens penalties look at.
PENALTY_WINDOW: Final = 256
#: OpenAI's word for "never": JSON and the wire have no infinity.
LOGPROB_MIN: Final = -9999.0
#: Logits that are divided by less overflow, and which is the largest cannot be told any longer.
TEMPERATURE_MIN: Final = 1e-30
#: One step of a grammar takes milliseconds. One so ambiguous that the processor has this long to do
#: would take for ever; nothing but its own end gets a process out of llama.cpp then.
GRAMMAR_STEP_S = 10.0
#: Processor time that a grammar may take for each token, and on top for all of an answer (and at
#: most for what was generated elsewhere): others wait for as long. Choosing among 150,000 tokens
#: takes it 60 ms.
GRAMMAR_TOKEN_S = 0.1
GRAMMAR_GRACE_S = 2.0

_CANDIDATE: Final = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

_Logits = np.ndarray[Any, np.dtype[np.float32]]
_Candidates = np.ndarray[Any, Any]


class ChainSampler:
    """Chooses tokens for one request; llama.cpp's samplers are freed with this object.

    With a seed, chance depends on the seed, on how many tokens came before, and on the token that
    it is about, and on nothing else; see `_noise`. Without one, llama.cpp draws.
    """

    def __init__(
        self,
        context: Any,
        vocab: Any,
        sampling: Sampling,
        generated: Sequence[int],
        *,
        rows: Callable[[], list[int]],
        piece: Callable[[int], bytes],
    ) -> None:
        """``rows``: index in the last batch of each slice's logits. Raises InvalidRequest."""
        self._context = context
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(vocab)
        self._rows = rows
        self._piece = piece
        self._alternatives = sampling.logprobs
        self._seed = sampling.seed if sampling.temperature > 0 else None
        self._position = len(generated)
        self._chain: Any = None
        self._grammar = _grammar_of(sampling, vocab, generated)
        #: Of what the grammar may take.
        self._grammar_left_s = GRAMMAR_GRACE_S
        self._chain = llama_cpp.llama_sampler_chain_init(
            llama_cpp.llama_sampler_chain_default_params()
        )
        self._fill(sampling, vocab)
        for token in generated[-PENALTY_WINDOW:]:
            llama_cpp.llama_sampler_accept(self._chain, token)

    def _fill(self, sampling: Sampling, vocab: Any) -> None:
        def add(sampler: Any) -> None:
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

        if pairs := [*sampling.logit_bias, *((token, -math.inf) for token in _suppressed(vocab))]:
            biases = (llama_cpp.llama_logit_bias * len(pairs))(
                *(llama_cpp.llama_logit_bias(*pair) for pair in pairs)
            )
            add(llama_cpp.llama_sampler_init_logit_bias(self._vocabulary, len(biases), biases))
        penalties = (
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
        if penalties != (1.0, 0.0, 0.0):
            add(
                llama_cpp.llama_sampler_init_penalties(self._vocabulary, PENALTY_WINDOW, *penalties)
            )
        if sampling.temperature <= 0:
            add(llama_cpp.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            add(llama_cpp.llama_sampler_init_top_k(sampling.top_k))
        if sampling.typical_p < 1:
            add(llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1))
        if sampling.top_p < 1:
            add(llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            add(llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1))
        add(llama_cpp.llama_sampler_init_temp(max(sampling.temperature, TEMPERATURE_MIN)))
        if self._seed is None:
            add(llama_cpp.llama_sampler_init_dist(llama_cpp.LLAMA_DEFAULT_SEED))

    def sample(self, row: int) -> int:
        """See `Sampler.sample`."""
        index = self._rows()[row]
        if self._grammar is None and self._seed is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, self._context, index))
        if self._grammar is None:
            token = self._choose(self._candidates(index))
        else:
            with _ending_in_time():
                token = self._choose_by_grammar(self._grammar, index)
        llama_cpp.llama_sampler_accept(self._chain, token)
        self._position += 1
        return token

    def _choose_by_grammar(self, grammar: _Grammar, index: int) -> int:
        """As llama.cpp does: most choices follow the grammar anyway, and to try one costs little.

        Only if it does not, all candidates are tried.
        """
        began_s = time.thread_time()
        token = self._choose(self._candidates(index))
        if not grammar.admits(token):
            token = self._choose(grammar.admitted(self._candidates(index)))
        grammar.accept(token)
        self._grammar_left_s += GRAMMAR_TOKEN_S - (time.thread_time() - began_s)
        if self._grammar_left_s < 0:
            raise _too_slow()
        return token

    def logprobs(self, row: int, token: int) -> tuple[TokenLogprob, ...]:
        """See `Sampler.logprobs`."""
        if self._alternatives is None:
            return ()
        logits = self._logits(self._rows()[row]).astype(np.float64)
        likeliest = logits.max()
        logits -= likeliest + math.log(np.exp(logits - likeliest).sum())
        count = min(self._alternatives, len(logits))
        top = np.argpartition(logits, -count)[-count:] if count else np.empty(0, np.intp)
        ordered = sorted(top.tolist(), key=lambda each: (-logits[each], each))
        return (
            TokenLogprob(
                self._piece(token),
                max(LOGPROB_MIN, float(logits[token])),
                tuple(
                    Alternative(self._piece(each), max(LOGPROB_MIN, float(logits[each])))
                    for each in ordered
                ),
            ),
        )

    def _logits(self, index: int) -> _Logits:
        """The model's own, which no sampler has touched."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self._vocabulary,))

    def _candidates(self, index: int) -> _Candidates:
        candidates = np.zeros(self._vocabulary, _CANDIDATE)
        candidates["id"] = np.arange(self._vocabulary)
        candidates["logit"] = self._logits(index)
        return candidates

    def _choose(self, candidates: _Candidates) -> int:
        array = _array_of(candidates)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        if self._seed is None:
            return int(candidates["id"][array.selected])
        left = candidates[: array.size]
        chances = left["logit"] + _noise(self._seed, self._position, left["id"])
        return int(left["id"][np.argmax(chances)])

    def __del__(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)


def _noise(seed: int, position: int, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Gumbel noise for each token; the one with the largest sum of logit and noise is drawn.

    That draws by the probabilities, just as a number on their cumulated sums does (the Gumbel-max
    trick; Maddison, Tarlow and Minka 2014). But there, a last bit that changes the order of two
    likely tokens moves the borders of many; here only two that are nearly level can change places.
    The noise is a hash of all three, by splitmix64's mixer (Steele, Lea and Flood 2014).
    """
    mixed = np.full(len(tokens), seed & 0xFFFFFFFF, np.uint64)
    for part in (np.uint64(position), tokens.astype(np.uint64)):
        mixed = (mixed ^ part) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    uniform = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    noise: np.ndarray[Any, Any] = -np.log(-np.log(uniform))
    return noise


class _Grammar:
    """llama.cpp's reader of an answer by a grammar, never fed what it would die of."""

    def __init__(self, vocab: Any, text: str) -> None:
        """Raises InvalidRequest."""
        self._vocab = vocab
        check_grammar(text)
        self._sampler: Any = llama_cpp.llama_sampler_init_grammar(
            vocab, text.encode(), ROOT.encode()
        )
        if not self._sampler:
            raise InvalidRequest(
                "The grammar cannot be used: llama.cpp refuses it, "
                "for a token that the model does not have or for its many repetitions.",
                "grammar",
            )

    def admits(self, token: int) -> bool:
        """Whether the answer may go on with this token, or end with it."""
        single = np.zeros(1, _CANDIDATE)
        single["id"] = token
        return len(self._filter(single)) == 1

    def admitted(self, candidates: _Candidates) -> _Candidates:
        """Those that may come next, at least one. Raises InvalidRequest."""
        found = self._filter(candidates)
        if not len(found):
            raise InvalidRequest("No token of this model can go on as the grammar demands.")
        return found

    def accept(self, token: int) -> None:
        """Go on by one token, which must be admitted: else llama.cpp ends the process."""
        if not llama_cpp.llama_vocab_is_eog(self._vocab, token):
            llama_cpp.llama_sampler_accept(self._sampler, token)

    def _filter(self, candidates: _Candidates) -> _Candidates:
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(_array_of(candidates)))
        # Samplers that weigh probabilities cannot take those that are impossible.
        left: _Candidates = candidates[np.isfinite(candidates["logit"])]
        return left

    def __del__(self) -> None:
        if sampler := getattr(self, "_sampler", None):
            llama_cpp.llama_sampler_free(sampler)


@contextlib.contextmanager
def _ending_in_time() -> Iterator[None]:
    """SIGPROF ends the process if this takes too long.

    That is the timer of its processor time: whoever suspends a node has its engines suspended too.
    """
    signal.setitimer(signal.ITIMER_PROF, GRAMMAR_STEP_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _grammar_of(sampling: Sampling, vocab: Any, generated: Sequence[int]) -> _Grammar | None:
    """The grammar of the request, that has read what was generated."""
    if sampling.grammar and sampling.json_schema:
        raise InvalidRequest("An answer follows a grammar or a JSON schema, not both.")
    if not sampling.grammar and not sampling.json_schema:
        return None
    with _ending_in_time():
        text = sampling.grammar
        if sampling.json_schema:
            text = schema_grammar(sampling.json_schema)
        grammar = _Grammar(vocab, text)
        until_s = time.thread_time() + GRAMMAR_GRACE_S
        for token in generated:
            if not grammar.admits(token):
                raise InvalidRequest("The answer so far does not follow the grammar.")
            grammar.accept(token)
            if time.thread_time() > until_s:
                raise _too_slow()
    return grammar


def _too_slow() -> InvalidRequest:
    return InvalidRequest("The grammar cannot be used: it takes too long to follow.", "grammar")


def _suppressed(vocab: Any) -> list[int]:
    """Tokens that the model file itself rules out."""
    count = ctypes.c_int32(0)
    tokens = llama_cpp.llama_vocab_get_suppress_tokens(vocab, ctypes.byref(count))
    return [int(tokens[at]) for at in range(count.value)]


def _array_of(candidates: _Candidates) -> Any:
    """llama.cpp's view of the candidates; it reorders them in place."""
    data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
    return llama_cpp.llama_token_data_array(
        data=data, size=len(candidates), selected=-1, sorted=False
    )
