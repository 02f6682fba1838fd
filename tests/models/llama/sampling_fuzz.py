"""A process that feeds llama.cpp hostile requests: ``python -m … MODEL EXAMPLES``.

llama.cpp ends the process where something goes wrong, so this must not be the tests' own.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.engine import Sampling
from models.llama.backend import Slice
from models.llama.loaded_model import LoadedModel
from models.llama.native import NativeBackend
from overlay.errors import InvalidRequest

TOKENS = 5

names = st.sampled_from(["root", "a", "b", "c"])
symbols = st.one_of(
    names,
    st.sampled_from(['"a"', '"ab"', '""', "[a-c]", "[^a]", "[]", ".", '"\\n"', "[\\]x-]"]),
    st.sampled_from(["<[3]>", "!<[3]>", "<[99999]>", "<a>", '"é"', "[😀-😎]"]),
)
marks = st.sampled_from(["", "", "*", "+", "?", "{2}", "{0,3}", "{2,}", "{0}", "{0,0}", "{40,90}"])
sequences = st.recursive(
    st.lists(st.tuples(symbols, marks).map("".join), max_size=3).map(" ".join),
    lambda inner: st.tuples(
        st.lists(inner, min_size=1, max_size=3).map(" | ".join).map(lambda s: f"({s})"), marks
    ).map("".join),
    max_leaves=6,
)
rules = st.tuples(names, st.lists(sequences, min_size=1, max_size=3).map(" | ".join))
grammars = st.lists(rules, min_size=1, max_size=4).map(
    lambda parts: "\n".join(f"{name} ::= {body}" for name, body in [("root", "a b"), *parts])
)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    text = list(draw(grammars))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(text)))
        text[at : at + 1] = draw(st.text(alphabet='"[](){}|*+?\\<>!.:=\n#-^ux09a', max_size=2))
    return "".join(text)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3000), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
keywords = st.sampled_from(
    [
        *("type", "properties", "required", "items", "anyOf", "allOf", "enum", "const", "$ref"),
        *("minItems", "maxItems", "minLength", "maxLength", "pattern", "format", "prefixItems"),
        *("additionalProperties", "definitions"),
    ]
)
patterns = st.text(alphabet="ab[]{}()|*+?\\.^$-,29", max_size=8).map(lambda s: f"^{s}$")
kinds = st.sampled_from(["object", "array", "string", "integer", "number", "null", "boolean"])
schemas = st.recursive(
    st.dictionaries(keywords, st.one_of(kinds, patterns, json_values), max_size=3),
    lambda inner: st.dictionaries(
        keywords,
        st.one_of(
            kinds,
            patterns,
            inner,
            st.lists(inner, max_size=3),
            st.dictionaries(st.text(max_size=3), inner, max_size=3),
            st.sampled_from(["#/definitions/a", "#/", "#/properties", "https://x.example/y"]),
        ),
        max_size=4,
    ),
    max_leaves=8,
)


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -1.0, 1e-45, 1e308, -1e308]),
    st.floats(0, 2),
)
counts = st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**64 - 1))
samplings = st.builds(
    Sampling,
    temperature=numbers,
    top_k=counts,
    top_p=numbers,
    min_p=numbers,
    typical_p=numbers,
    repeat_penalty=numbers,
    presence_penalty=numbers,
    frequency_penalty=numbers,
    seed=st.none() | counts,
    logit_bias=st.lists(st.tuples(st.integers(0, 250), numbers), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
    grammar=st.sampled_from(["", 'root ::= [a-f]+ "x"']),
)


def main(path: str, examples: int) -> None:
    backend = NativeBackend(LoadedModel(Path(path), lambda share: None), cells=512, threads=1)

    def answer(sampling: Sampling) -> None:
        """A few tokens, by a grammar that may be anything."""
        with contextlib.suppress(InvalidRequest):
            sampler = backend.sampler(sampling, ())
            backend.forget(0, 0, None)
            token = 1
            for position in range(TOKENS):
                backend.decode([Slice(0, position, [token], True)])
                token = sampler.sample(0)
                for logprob in sampler.logprobs(0, token):
                    assert math.isfinite(logprob.logprob)
                if backend.ends_generation(token):
                    return

    options = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @options
    @given(mutated())
    def grammar(text: str) -> None:
        answer(Sampling(grammar=text or " ", temperature=1.5, top_k=0, typical_p=0.9))

    @options
    @given(schemas)
    def schema(value: Any) -> None:
        answer(Sampling(json_schema=json.dumps(value), temperature=1.5))

    @options
    @given(samplings)
    def parameters(sampling: Sampling) -> None:
        answer(sampling)

    grammar()
    schema()
    parameters()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
