"""How tokens are chosen, on the tiny model: seeds, probabilities and grammars."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from models.engine import Sampling
from models.llama import sampling
from models.llama.backend import Slice
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from models.llama.sampling import PENALTY_WINDOW
from overlay.errors import InvalidRequest

PROMPT = list(range(40, 60))
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer"},
            "city": {"enum": ['Zü"rich', "B\\onn"]},
        },
        "required": ["name", "age", "city"],
    }
)


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> NativeBackend:
    return NativeBackend(LoadedModel(tiny_model, lambda share: None), cells=512, threads=1)


def answer(
    backend: NativeBackend, sampling: Sampling, generated: Sequence[int] = (), limit: int = 40
) -> list[int]:
    """Go on from ``generated``, up to ``limit`` tokens in all."""
    sampler = backend.sampler(sampling, generated)
    tokens = [*PROMPT, *generated]
    backend.forget(0, 0, None)
    backend.decode([Slice(0, 0, tokens, True)])
    while len(tokens) - len(PROMPT) < limit:
        token = sampler.sample(0)
        if backend.ends_generation(token):
            break
        tokens.append(token)
        backend.decode([Slice(0, len(tokens) - 1, [token], True)])
    return tokens[len(PROMPT) :]


def text(backend: NativeBackend, tokens: Sequence[int]) -> str:
    return b"".join(map(backend.piece, tokens)).decode("utf-8", "replace")


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("temperature", [1e-20, 1e-40])
def test_next_to_no_temperature_is_none(
    backend: NativeBackend, temperature: float, seed: int | None
) -> None:
    cold = Sampling(temperature=temperature, seed=seed, top_k=0, top_p=1, min_p=0)
    assert answer(backend, cold) == answer(backend, Sampling(temperature=0))


SEEDED = [
    pytest.param(Sampling(seed=7, temperature=1.5, top_k=0, top_p=1, min_p=0), id="plain"),
    pytest.param(Sampling(seed=7, temperature=1.5, top_k=20), id="top_k"),
    pytest.param(Sampling(seed=7, temperature=1.5, repeat_penalty=1.3), id="penalty"),
    pytest.param(Sampling(seed=7, temperature=1.5, typical_p=0.7), id="typical"),
    pytest.param(Sampling(seed=7, temperature=2, json_schema=SCHEMA), id="schema"),
    pytest.param(Sampling(temperature=0, json_schema=SCHEMA), id="greedy schema"),
]


@pytest.mark.parametrize("sampling", SEEDED)
def test_an_answer_that_goes_on_elsewhere_is_the_unbroken_one(
    backend: NativeBackend, sampling: Sampling
) -> None:
    whole = answer(backend, sampling)
    assert len(whole) > 10
    for cut in (1, 7, len(whole) - 1):
        assert answer(backend, sampling, whole[:cut]) == whole


def test_the_seed_decides(backend: NativeBackend) -> None:
    answers = [tuple(answer(backend, Sampling(seed=seed, temperature=2))) for seed in range(4)]
    assert len(set(answers)) == 4


def test_seeds_draw_by_the_probabilities(backend: NativeBackend) -> None:
    backend.forget(0, 0, None)
    backend.decode([Slice(0, 0, PROMPT, True)])
    [likely] = backend.sampler(Sampling(logprobs=5), ()).logprobs(0, 65)
    weights = [math.exp(each.logprob) for each in likely.top]
    draws = 4000
    options = Sampling(temperature=1, top_k=5, top_p=1, min_p=0)
    drawn = Counter(
        backend.piece(backend.sampler(replace(options, seed=seed), ()).sample(0))
        for seed in range(draws)
    )
    assert drawn.total() == draws
    for each, weight in zip(likely.top, weights, strict=True):
        share = weight / sum(weights)
        five_sigma = 5 * math.sqrt(share * (1 - share) / draws)
        assert abs(drawn[each.piece] / draws - share) < five_sigma


def test_typical_p_leaves_the_least_surprising(backend: NativeBackend) -> None:
    narrow = Sampling(seed=1, temperature=1.5, typical_p=1e-6, top_k=0, top_p=1, min_p=0)
    others = [
        answer(
            backend, Sampling(seed=seed, temperature=1.5, typical_p=1e-6, top_k=0, top_p=1, min_p=0)
        )
        for seed in (2, 3)
    ]
    assert others == [answer(backend, narrow)] * 2


def test_logprobs_are_the_models_own(backend: NativeBackend) -> None:
    biased = Sampling(
        temperature=0, logprobs=20, logit_bias=((65, 100.0),), repeat_penalty=1.5, top_k=1
    )
    plain = Sampling(temperature=0, logprobs=300)
    backend.forget(0, 0, None)
    backend.decode([Slice(0, 0, PROMPT, True)])
    sampler = backend.sampler(biased, ())
    assert sampler.sample(0) == 65
    [chosen] = sampler.logprobs(0, 65)
    [reference] = backend.sampler(plain, ()).logprobs(0, 65)
    assert chosen.piece == b"A" == backend.piece(65)
    [of_all] = (each.logprob for each in reference.top if each.piece == b"A")
    assert chosen.logprob == reference.logprob == of_all < reference.top[0].logprob
    assert chosen.top == reference.top[:20]
    assert sorted(reference.top, key=lambda each: -each.logprob) == list(reference.top)
    assert len(reference.top) == backend.vocabulary
    assert math.isclose(sum(math.exp(each.logprob) for each in reference.top), 1, rel_tol=1e-9)


def test_logprobs_are_told_only_when_asked(backend: NativeBackend) -> None:
    backend.forget(0, 0, None)
    backend.decode([Slice(0, 0, PROMPT, True)])
    assert backend.sampler(Sampling(), ()).logprobs(0, 65) == ()
    [alone] = backend.sampler(Sampling(logprobs=0), ()).logprobs(0, 65)
    assert alone.top == ()


@pytest.mark.parametrize("seed", range(5))
def test_a_schema_binds_the_answer(backend: NativeBackend, seed: int) -> None:
    tokens = answer(backend, Sampling(seed=seed, temperature=2, json_schema=SCHEMA), limit=120)
    said = json.loads(text(backend, tokens))
    assert said.keys() == {"name", "age", "city"}
    assert isinstance(said["name"], str)
    assert isinstance(said["age"], int)
    assert said["city"] in ('Zü"rich', "B\\onn")


def test_a_grammar_that_is_complete_ends_the_answer(backend: NativeBackend) -> None:
    tokens = answer(backend, Sampling(grammar='root ::= "yes" | "no"', temperature=0))
    assert text(backend, tokens) in ("yes", "no")


def test_characters_of_several_tokens_follow_the_grammar(backend: NativeBackend) -> None:
    tokens = answer(backend, Sampling(grammar="root ::= [😀-😎]{3}", temperature=2, seed=1))
    said = text(backend, tokens)
    assert len(said) == 3
    assert all("😀" <= char <= "😎" for char in said)


def test_an_answer_that_left_its_grammar_cannot_go_on(backend: NativeBackend) -> None:
    with pytest.raises(InvalidRequest, match="does not follow the grammar"):
        backend.sampler(Sampling(grammar='root ::= "yes"'), [ord("n")])


def test_a_grammar_without_a_way_on_is_told(backend: NativeBackend) -> None:
    with pytest.raises(InvalidRequest, match="No token"):
        answer(backend, Sampling(grammar=r'root ::= "\x00"'))


def test_a_grammar_and_a_schema_do_not_go_together(backend: NativeBackend) -> None:
    with pytest.raises(InvalidRequest, match="not both"):
        backend.sampler(Sampling(grammar='root ::= "a"', json_schema="{}"), ())


def test_a_grammar_that_takes_for_ever_ends_the_process(tiny_model: Path) -> None:
    program = """
import sys
from pathlib import Path
from models.engine import Sampling
from models.llama import sampling
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
sampling.GRAMMAR_STEP_S = 0.5
backend = NativeBackend(LoadedModel(Path(sys.argv[1]), lambda share: None), cells=512, threads=1)
backend.sampler(Sampling(grammar='root ::= "a" root "b" | "a" root "c" | "a"'), [ord("a")] * 200)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGPROF


def test_a_process_that_is_suspended_in_a_grammar_goes_on() -> None:
    program = """
import time
from models.llama import sampling
sampling.GRAMMAR_STEP_S = 0.1
with sampling._ending_in_time():
    time.sleep(0.2)
"""
    subprocess.run([sys.executable, "-c", program], timeout=60, check=True)


def test_a_slow_grammar_ends_its_request(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Sampling(grammar="root ::= .*", temperature=0)
    assert len(answer(backend, slow, limit=5)) == 5
    monkeypatch.setattr(sampling, "GRAMMAR_GRACE_S", 0.0)
    monkeypatch.setattr(sampling, "GRAMMAR_TOKEN_S", 0.0)
    with pytest.raises(InvalidRequest, match="too long to follow"):
        answer(backend, slow)


def test_hostile_requests_do_not_end_the_process(tiny_model: Path) -> None:
    command = [sys.executable, "-m", "tests.models.llama.sampling_fuzz", str(tiny_model), "60"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_what_was_generated_elsewhere_may_not_take_its_grammar_long(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = Sampling(grammar="root ::= .*"), [ord("a")] * 5
    backend.sampler(*resumed)
    monkeypatch.setattr(sampling, "GRAMMAR_GRACE_S", 0.0)
    with pytest.raises(InvalidRequest, match="too long to follow"):
        backend.sampler(*resumed)


def test_of_what_was_generated_elsewhere_only_what_penalties_see_is_read(
    backend: NativeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[int] = []
    monkeypatch.setattr(
        llama_cpp, "llama_sampler_accept", lambda _chain, token: accepted.append(token)
    )
    backend.sampler(Sampling(), range(PENALTY_WINDOW * 3))
    assert accepted == [*range(PENALTY_WINDOW * 2, PENALTY_WINDOW * 3)]
