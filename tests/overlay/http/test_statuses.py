"""Every error has a status, and reads like OpenAI's."""

from __future__ import annotations

import json
import logging

import pytest
from starlette.exceptions import HTTPException

from overlay.errors import (
    BY_CODE,
    ContextLengthExceeded,
    HearthError,
    InvalidRequest,
    ModelNotFound,
    from_code,
)
from overlay.http.statuses import STATUSES, error_object, error_response


def test_the_table_has_a_status_for_every_error_and_no_other() -> None:
    assert set(STATUSES) == set(BY_CODE)
    assert all(400 <= status < 600 for status in STATUSES.values())


@pytest.mark.parametrize("error_class", BY_CODE.values(), ids=BY_CODE.keys())
def test_a_client_can_rebuild_the_error_from_the_body(error_class: type[HearthError]) -> None:
    status, body = error_object(error_class("what happened: what to do"))
    rebuilt = from_code(body["error"]["code"], body["error"]["message"])
    assert status == STATUSES[error_class.code]
    assert type(rebuilt) is error_class
    assert str(rebuilt) == "what happened: what to do"


def test_known_errors_use_openais_words() -> None:
    status, body = error_object(ModelNotFound("no such model"))
    assert status == 404
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["code"] == "model_not_found"
    _, body = error_object(ContextLengthExceeded("too long"))
    assert body["error"]["code"] == "context_length_exceeded"
    _, body = error_object(InvalidRequest("n must be 1", "n"))
    assert body["error"]["param"] == "n"


def test_a_busy_node_says_when_to_try_again() -> None:
    response = error_response(BY_CODE["engine-busy"]("the queue is full"))
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1


def test_a_bug_is_logged_and_its_text_stays_at_home(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = error_response(ValueError("/home/ada/secret"))
    assert response.status_code == 500
    assert b"secret" not in response.body
    assert json.loads(bytes(response.body))["error"]["type"] == "server_error"
    assert "secret" in caplog.text


def test_an_http_exception_keeps_its_headers() -> None:
    response = error_response(HTTPException(405, "no", {"Allow": "POST"}))
    assert response.headers["allow"] == "POST"
    assert json.loads(bytes(response.body))["error"]["code"] == "method_not_allowed"


def test_half_a_surrogate_pair_in_an_error_can_be_sent() -> None:
    response = error_response(InvalidRequest("no", "\ud800"))
    assert json.loads(bytes(response.body))["error"]["param"] == "\ud800"
