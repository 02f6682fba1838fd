"""What clients send, read strictly: OpenAI's parameters to an Ask. Pure.

Unknown fields are ignored, because OpenAI clients send many. Known ones that would change the
answer and are not supported are refused, because ignoring them would give a wrong answer.
"""

from __future__ import annotations

import gc
import json
import re
from dataclasses import dataclass
from typing import Final, NoReturn

from models.engine import Message, Prompt, Sampling
from overlay.errors import InvalidRequest, Malformed, ModelNotFound
from overlay.http.backend import Ask, Route
from overlay.http.choices import SEEDS
from overlay.http.fields import Fields, echo, kind, number, text
from overlay.http.form import parse_form
from overlay.identity.peer_id import PeerId
from overlay.limits import (
    ANSWERS_MAX,
    ASKED_MODEL_CHARS_MAX,
    INVITE_TTL_MAX_S,
    INVITE_TTL_S,
    INVITE_USES_MAX,
    LOGIT_BIAS_MAX,
    LOGPROBS_MAX,
    NAME_CHARS_MAX,
    PROMPT_MESSAGES_MAX,
    STOP_STRING_CHARS_MAX,
    STOP_STRINGS_MAX,
)

_INT32_MAX: Final = 2**31 - 1
#: OpenAI's default for the old completions endpoint; chat has no limit but the context.
_COMPLETION_TOKENS_DEFAULT: Final = 16
_ROLES: Final = ("system", "developer", "user", "assistant", "tool")
_DEFAULTS: Final = Sampling()

#: Parameters that would change the answer, with what a refusal says.
_UNSUPPORTED: Final = {
    "tools": "tools are not supported",
    "functions": "functions are not supported",
    "audio": "audio is not supported",
}
_UNSUPPORTED_IN_COMPLETIONS: Final = {
    "echo": "echoing the prompt is not supported",
    "suffix": "inserting text before a suffix is not supported",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the client wants it answered."""

    ask: Ask
    #: Server-sent events instead of one JSON object.
    stream: bool
    #: A last stream chunk with the usage.
    include_usage: bool
    #: Answers to give.
    n: int = 1


@dataclass(frozen=True, slots=True)
class InviteOrder:
    """The body of ``POST /mesh/invites``."""

    ttl_s: int
    uses: int
    label: str
    may_invite: bool


def parse_json(body: bytes) -> object:
    """Decode a body. Raises InvalidRequest, also for what only Python calls JSON (``NaN``)."""
    # Of 8 MiB of empty arrays the collector would go through the first ones again and again while
    # the others are read: the loop stood still for three seconds, and does for a half.
    gc.disable()
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError):
        # No UTF-8, a number of thousands of digits, or arrays nested beyond measure.
        raise InvalidRequest("the body is not valid JSON") from None
    finally:
        gc.enable()


def parse_chat(body: object) -> Call:
    """The body of ``POST /v1/chat/completions``. Raises InvalidRequest, ModelNotFound."""
    fields = Fields(body)
    _refuse_unsupported(fields, _UNSUPPORTED)
    max_tokens = fields.integer("max_tokens", 1, _INT32_MAX)
    newer = fields.integer("max_completion_tokens", 1, _INT32_MAX)
    return _call(
        fields, _messages(fields.value("messages")), newer or max_tokens, _chat_logprobs(fields)
    )


def parse_completion(body: object) -> Call:
    """The body of ``POST /v1/completions``. Raises InvalidRequest, ModelNotFound."""
    fields = Fields(body)
    _refuse_unsupported(fields, _UNSUPPORTED | _UNSUPPORTED_IN_COMPLETIONS)
    logprobs = None
    if fields.value("logprobs") is not False:  # 0 asks for the chosen token's
        logprobs = fields.integer("logprobs", 0, LOGPROBS_MAX)
    if fields.value("best_of") not in (None, fields.value("n") or 1):
        raise InvalidRequest("best_of must be equal to n: all answers are returned", "best_of")
    max_tokens = fields.integer("max_tokens", 1, _INT32_MAX) or _COMPLETION_TOKENS_DEFAULT
    return _call(fields, _raw_prompt(fields.value("prompt")), max_tokens, logprobs)


def parse_invite(body: object) -> InviteOrder:
    """The body of ``POST /mesh/invites``. Raises InvalidRequest."""
    fields = Fields(body)
    fields.only("ttl_s", "uses", "label", "may_invite")
    label = fields.text("label") or ""
    if len(label) > NAME_CHARS_MAX:
        raise InvalidRequest(f"label may have {NAME_CHARS_MAX} characters at most", "label")
    return InviteOrder(
        ttl_s=fields.integer("ttl_s", 1, INVITE_TTL_MAX_S) or INVITE_TTL_S,
        uses=fields.integer("uses", 1, INVITE_USES_MAX) or 1,
        label=label,
        may_invite=fields.flag("may_invite", default=True),
    )


def parse_join(body: object) -> str:
    """The token in the body of ``POST /mesh/join``. Raises InvalidRequest."""
    fields = Fields(body)
    fields.only("token")
    token = (fields.text("token") or "").strip()
    if not token:
        raise InvalidRequest("token is missing: the line that an invite printed", "token")
    return token


def parse_pause(body: object) -> bool:
    """The body of ``POST /mesh/pause``: whether guests' requests under way end, too.

    Raises InvalidRequest.
    """
    fields = Fields(body)
    fields.only("now")
    return fields.flag("now")


def parse_revocation(body: object) -> PeerId:
    """The peer in the body of ``POST /mesh/revocations``. Raises InvalidRequest."""
    fields = Fields(body)
    fields.only("peer_id")
    try:
        return PeerId.parse(fields.text("peer_id") or "")
    except Malformed as error:
        raise InvalidRequest(str(error), "peer_id") from None


def parse_invite_id(text: str) -> str:
    """The beginning of an invite's id, in hexadecimal. Raises InvalidRequest."""
    if not re.fullmatch(r"[0-9a-f]{1,16}", text.lower()):
        raise InvalidRequest(f"{echo(text)} is no invite's id: see hearth invite --list", "id")
    return text.lower()


def parse_request_id(text: str) -> str | None:
    """The beginning of a request's id, in hexadecimal, of what a client calls it by.

    That is the ``id`` of its answer, the ``hearth.request_id`` in it, or a beginning of either;
    ``latest`` gives None. Raises InvalidRequest.
    """
    if text == "latest":
        return None
    beginning = text.lower().removeprefix("chatcmpl-").removeprefix("cmpl-")
    if not re.fullmatch(r"[0-9a-f]{1,32}", beginning):
        raise InvalidRequest(
            f"{echo(text)} is no request's id: it is the id of an answer, or its beginning, "
            "such as 5f0c7a1e",
            "id",
        )
    return beginning


def _call(fields: Fields, prompt: Prompt, max_tokens: int | None, logprobs: int | None) -> Call:
    model = fields.text("model")
    if model == "":
        raise InvalidRequest("model must not be empty: leave it out for the default", "model")
    if model is not None and len(model) > ASKED_MODEL_CHARS_MAX:
        raise ModelNotFound(f"no node serves a model named {echo(model)}")
    options = fields.value("stream_options")
    hearth = _hearth(fields.value("hearth"))
    return Call(
        ask=Ask(
            model=model,
            prompt=prompt,
            sampling=_sampling(fields, max_tokens, logprobs),
            route=_route(hearth),
            explain=hearth.flag("explain"),
        ),
        stream=fields.flag("stream"),
        include_usage=options is not None
        and Fields(options, "stream_options").flag("include_usage"),
        n=fields.integer("n", 1, ANSWERS_MAX) or 1,
    )


def _sampling(fields: Fields, max_tokens: int | None, logprobs: int | None) -> Sampling:
    grammar, json_schema = parse_form(fields)
    top_k = fields.integer("top_k", -1, _INT32_MAX)
    seed = fields.integer("seed", -(2**63), 2**63 - 1)
    return Sampling(
        max_tokens=max_tokens,
        temperature=fields.number("temperature", _DEFAULTS.temperature, 0, 2),
        # -1 is how some servers spell "all tokens"; the engine spells it 0.
        top_k=_DEFAULTS.top_k if top_k is None else max(top_k, 0),
        top_p=fields.number("top_p", _DEFAULTS.top_p, 0, 1),
        min_p=fields.number("min_p", _DEFAULTS.min_p, 0, 1),
        repeat_penalty=fields.number("repeat_penalty", _DEFAULTS.repeat_penalty, 0.1, 2),
        presence_penalty=fields.number("presence_penalty", _DEFAULTS.presence_penalty, -2, 2),
        frequency_penalty=fields.number("frequency_penalty", _DEFAULTS.frequency_penalty, -2, 2),
        typical_p=fields.number("typical_p", _DEFAULTS.typical_p, 0, 1),
        seed=None if seed is None else seed % SEEDS,
        stop=_stop(fields.value("stop")),
        logit_bias=_logit_bias(fields.value("logit_bias")),
        logprobs=logprobs,
        grammar=grammar,
        json_schema=json_schema,
    )


def _chat_logprobs(fields: Fields) -> int | None:
    alternatives = fields.integer("top_logprobs", 0, LOGPROBS_MAX) or 0
    if fields.flag("logprobs"):
        return alternatives
    if alternatives:
        raise InvalidRequest("top_logprobs needs logprobs to be true", "top_logprobs")
    return None


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest("messages must be an array of at least one message", "messages")
    _limit(value, "messages")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(value: object, path: str) -> Message:
    fields = Fields(value, path)
    role = fields.value("role")
    if not isinstance(role, str) or role not in _ROLES:
        name = fields.name("role")
        raise InvalidRequest(f"{name} must be one of {', '.join(_ROLES)}, not {echo(role)}", name)
    for calls in ("tool_calls", "function_call"):
        if fields.given(calls):
            raise InvalidRequest("tool calls are not supported", fields.name(calls))
    content = _content(fields.value("content"), fields.name("content"))
    # OpenAI renamed "system" for its newer models; chat templates know the old name.
    return Message("system" if role == "developer" else role, content)


def _content(value: object, name: str) -> str:
    if isinstance(value, list):
        _limit(value, name)
        return "\n".join(_part(part, f"{name}[{index}]") for index, part in enumerate(value))
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{name} must be a string or an array of text parts, not {kind(value)}", name
        )
    return text(value, name)


def _limit(items: list[object], name: str) -> None:
    if len(items) > PROMPT_MESSAGES_MAX:
        raise InvalidRequest(f"{name} may have {PROMPT_MESSAGES_MAX} items at most", name)


def _part(value: object, path: str) -> str:
    fields = Fields(value, path)
    if fields.value("type") != "text":
        raise InvalidRequest(
            f"{path} is no text part: images, audio and files are not supported", path
        )
    return text(fields.value("text"), fields.name("text"))


def _raw_prompt(value: object) -> str:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], str):
            raise InvalidRequest(
                "prompt must be one string; several prompts and token ids are not supported",
                "prompt",
            )
        value = value[0]
    prompt = text(value, "prompt")
    if not prompt:
        raise InvalidRequest("prompt must not be empty", "prompt")
    return prompt


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, list) else [value]
    if len(items) > STOP_STRINGS_MAX:
        raise InvalidRequest(f"stop may have {STOP_STRINGS_MAX} strings at most", "stop")
    stops = tuple(text(item, "stop") for item in items)
    if not all(1 <= len(stop) <= STOP_STRING_CHARS_MAX for stop in stops):
        raise InvalidRequest(
            f"a stop string must have 1 to {STOP_STRING_CHARS_MAX} characters", "stop"
        )
    return stops


def _logit_bias(value: object) -> tuple[tuple[int, float], ...]:
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise InvalidRequest(
            f"logit_bias must be an object of token ids, not {kind(value)}", "logit_bias"
        )
    if len(value) > LOGIT_BIAS_MAX:
        raise InvalidRequest(f"logit_bias may have {LOGIT_BIAS_MAX} tokens at most", "logit_bias")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        digits = str(key)
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 10):
            raise InvalidRequest(
                f"logit_bias: {echo(digits)} is no token id (a whole number)", "logit_bias"
            )
        token = int(digits)
        if token > _INT32_MAX:
            raise InvalidRequest(f"logit_bias: there is no token {token}", "logit_bias")
        biases[token] = number(bias, f"logit_bias[{token}]", -100, 100)
    return tuple(sorted(biases.items()))


def _hearth(value: object) -> Fields:
    fields = Fields({} if value is None else value, "hearth")
    # Strict, unlike the rest: a mistyped "route": "local" must not send a prompt to a peer.
    fields.only("route", "explain")
    return fields


def _route(fields: Fields) -> Route:
    route = fields.text("route")
    try:
        return Route.MESH if route is None else Route(route)
    except ValueError:
        raise InvalidRequest(
            f'hearth.route must be "mesh" or "local", not {echo(route)}', "hearth.route"
        ) from None


def _refuse_unsupported(fields: Fields, refusals: dict[str, str]) -> None:
    for name, sentence in refusals.items():
        if fields.given(name):
            raise InvalidRequest(sentence, name)
    # Empty, it asks for a search as it is by default.
    if fields.value("web_search_options") is not None:
        raise InvalidRequest("web search is not supported", "web_search_options")
    if fields.value("modalities") not in (None, [], ["text"]):
        raise InvalidRequest("only text is supported as an answer", "modalities")
    if fields.value("tool_choice") not in (None, "none", "auto"):
        raise InvalidRequest(_UNSUPPORTED["tools"], "tool_choice")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
