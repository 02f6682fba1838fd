"""docs/reference/http.md names every path, status and limit."""

from __future__ import annotations

import re
from pathlib import Path

from starlette.routing import Route

from models.llama.json_schema import PROPERTIES_MAX, REPETITIONS_MAX
from models.llama.sampling import GRAMMAR_GRACE_S, GRAMMAR_STEP_S, GRAMMAR_TOKEN_S, PENALTY_WINDOW
from overlay.http.app import create_app
from overlay.http.statuses import STATUSES
from overlay.limits import (
    ANSWERS_MAX,
    EXPLAINED_CANDIDATES_MAX,
    EXPLANATIONS_MAX,
    GRAMMAR_CHARS_MAX,
    HTTP_BODY_BYTES_MAX,
    INVITE_TTL_MAX_S,
    LOGIT_BIAS_MAX,
    LOGPROBS_MAX,
    PROMPT_MESSAGES_MAX,
    SSE_KEEP_ALIVE_S,
    STOP_STRINGS_MAX,
)
from overlay.prefix.chain import BLOCK_TOKENS
from tests.overlay.http.scripted import ADMIN, ScriptedBackend

REFERENCE = (Path(__file__).parents[3] / "docs/reference/http.md").read_text()


def test_every_path_is_in_the_table() -> None:
    app = create_app(ScriptedBackend(), admin_token=ADMIN, api_key=None, loopback=True)
    for route in app.routes:
        assert isinstance(route, Route)
        path = re.escape(route.path.replace(":path", ""))
        for method in (route.methods or set()) - {"HEAD"}:
            row = rf"^\| \[?`{path}`.* \| {method} \|"
            assert re.search(row, REFERENCE, re.MULTILINE), (method, route.path)


def test_every_error_is_listed_under_its_status() -> None:
    listed = {
        code: int(status)
        for status, codes in re.findall(r"^\| (\d{3}) \| (.*) \|$", REFERENCE, re.MULTILINE)
        for code in re.findall(r"`([a-z_]+)`", codes)
    }
    assert {code.replace("-", "_"): status for code, status in STATUSES.items()}.items() <= (
        listed.items()
    )


def test_the_limits_are_those_of_the_code() -> None:
    for claim in (
        f"up to {PROMPT_MESSAGES_MAX} of them",
        f"up to {STOP_STRINGS_MAX} of them",
        f"up to {LOGIT_BIAS_MAX} token ids",
        f"1 to {ANSWERS_MAX} [answers]",
        f"0 to {LOGPROBS_MAX} alternatives",
        f"at most {GRAMMAR_CHARS_MAX} characters",
        f"have {PROPERTIES_MAX} properties, require as many, and count out {REPETITIONS_MAX}",
        f"last {PENALTY_WINDOW} tokens",
        f"takes {GRAMMAR_STEP_S:g} s of processor time",
        f"{1000 * GRAMMAR_TOKEN_S:g} ms of it for each token",
        f"and {GRAMMAR_GRACE_S:g} s on top",
        f"1 to {INVITE_TTL_MAX_S} (30 days)",
        f"more than {HTTP_BODY_BYTES_MAX >> 20} MiB",
        f"longer than {SSE_KEEP_ALIVE_S:g} s",
        f"the latest {EXPLANATIONS_MAX} requests",
        f"the {EXPLAINED_CANDIDATES_MAX} cheapest",
        f"({BLOCK_TOKENS} tokens) is none",
    ):
        assert claim in REFERENCE, claim
