"""What names of a hub mean, and which file of a repository they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from models.store.hub import HubName, client, find
from overlay.errors import ConfigError, DownloadFailed, ModelNotFound
from tests.support.hub import REVISION, Hub, serving


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def found(name: str) -> str:
    """The addresses of the files, from the repository's revision on."""
    parsed = HubName.parse(name)
    assert parsed is not None
    with client() as http:
        files = find(http, parsed)
    return " ".join(file.url.partition(f"/resolve/{REVISION}/")[2] for file in files)


@pytest.mark.parametrize(
    ("text", "repo", "wanted"),
    [
        ("Qwen/Qwen3-1.7B-GGUF", "Qwen/Qwen3-1.7B-GGUF", ""),
        ("Qwen/Qwen3-1.7B-GGUF:Q8_0", "Qwen/Qwen3-1.7B-GGUF", "Q8_0"),
        ("a/b:c-Q4_0.gguf", "a/b", "c-Q4_0.gguf"),
        ("hf.co/a/b:Q4_0", "a/b", "Q4_0"),
        ("https://huggingface.co/a/b", "a/b", ""),
        ("https://huggingface.co/a/b/tree/main", "a/b", ""),
        ("https://huggingface.co/a/b/blob/main/sub/c-Q4_0.gguf", "a/b", "sub/c-Q4_0.gguf"),
        ("https://huggingface.co/a/b/blob/main/c%20d.gguf", "a/b", "c d.gguf"),
        ("https://huggingface.co/a/b/resolve/main/c-Q4_0.gguf?download=true", "a/b", "c-Q4_0.gguf"),
        ("https://huggingface.co/a/b?show_file_info=c.gguf", "a/b", ""),
    ],
)
def test_a_model_is_named_as_other_tools_and_the_hubs_pages_name_it(
    text: str, repo: str, wanted: str
) -> None:
    assert HubName.parse(text) == HubName(repo, wanted)


@pytest.mark.parametrize(
    "text", ["", "demo", "a/b/c", "/a/b", "../b", "a/..", "~/b", "a b/c", "a/b:", "a/b:c:d", "ä/b"]
)
def test_anything_else_is_no_name_of_a_hub(text: str) -> None:
    assert HubName.parse(text) is None


REPO = {
    "M-Q2_K.gguf": b"2" * 20,
    "M-Q4_K_M.gguf": b"4" * 40,
    "M-UD-Q4_K_XL.gguf": b"5" * 50,
    "deep/M-BF16.gguf": b"f" * 90,
    "large/M-Q8_0-00001-of-00002.gguf": b"8",
    "large/M-Q8_0-00002-of-00002.gguf": b"8",
    "lost/M-Q6_K-00001-of-00002.gguf": b"6",
    "mmproj-M-Q4_K_M.gguf": b"p",
    "M.imatrix.gguf": b"i",
    "config.json": b"{}",
}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("o/m", "M-Q4_K_M.gguf"),
        ("o/m:q2_k", "M-Q2_K.gguf"),
        ("o/m:Q4_K_XL", "M-UD-Q4_K_XL.gguf"),
        ("o/m:UD-Q4_K_XL", "M-UD-Q4_K_XL.gguf"),
        ("o/m:bf16", "deep/M-BF16.gguf"),
        ("o/m:M-BF16.gguf", "deep/M-BF16.gguf"),
        ("o/m:Q8_0", "large/M-Q8_0-00001-of-00002.gguf large/M-Q8_0-00002-of-00002.gguf"),
        (
            "o/m:M-Q8_0-00001-of-00002.gguf",
            "large/M-Q8_0-00001-of-00002.gguf large/M-Q8_0-00002-of-00002.gguf",
        ),
        ("https://huggingface.co/o/m/blob/main/deep/M-BF16.gguf", "deep/M-BF16.gguf"),
    ],
)
def test_the_file_that_is_meant(hub: Hub, name: str, file: str) -> None:
    hub.repos["o/m"] = REPO
    assert found(name) == file


def test_the_only_model_of_a_repository_needs_no_more_words(hub: Hub) -> None:
    hub.repos["o/m"] = {"strange name.gguf": b"1", "mmproj.gguf": b"2"}
    assert found("o/m") == "strange%20name.gguf"


def test_the_exact_quantisation_comes_before_one_that_is_like_it(hub: Hub) -> None:
    hub.repos["o/m"] = {"M-UD-Q4_K_M.gguf": b"1", "M-Q4_K_M.gguf": b"2"}
    assert found("o/m") == "M-Q4_K_M.gguf"
    assert found("o/m:UD-Q4_K_M") == "M-UD-Q4_K_M.gguf"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("o/other", "no model 'o/other' that you may see"),
        (
            "o/m:Q3_K_S",
            r"no Q3_K_S; .*:Q8_0 \(0.0 GB\), :Q2_K .*, :Q4_K_M .*, :BF16",
        ),
        ("o/m:Q6_K", "no Q6_K"),
        ("o/m:nothing.gguf", "no nothing.gguf"),
        ("o/two", "several files may be meant; .* o/two:A-Q4_K_M.gguf, o/two:B-Q4_K_M.gguf"),
        ("o/few", "no Q4_K_M, which is the usual one; add one to the name: :Q2_K .*, :Q8_0"),
        ("o/bare", "no GGUF files; .* o/bare-GGUF"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(hub: Hub, name: str, words: str) -> None:
    hub.repos["o/m"] = REPO
    hub.repos["o/two"] = {"A-Q4_K_M.gguf": b"1", "B-Q4_K_M.gguf": b"2"}
    hub.repos["o/few"] = {"M-Q8_0.gguf": b"12", "M-Q2_K.gguf": b"1"}
    hub.repos["o/bare"] = {"model.safetensors": b"1"}
    with pytest.raises(ModelNotFound, match=words):
        found(name)


def test_the_hub_does_not_say_where_a_file_is_stored(hub: Hub) -> None:
    hub.repos["o/m"] = {"../../M.gguf": b"1"}
    with client() as http:
        (file,) = find(http, HubName("o/m"))
    assert file.name == "M.gguf"


@pytest.mark.parametrize("digest", ["", "0" * 63, "../" * 21 + "0"])
def test_a_file_without_a_digest_is_not_fetched(hub: Hub, digest: str) -> None:
    hub.repos["o/m"] = {"M.gguf": b"1"}
    hub.digests["M.gguf"] = digest
    with pytest.raises(DownloadFailed, match=r"no digest of M\.gguf"):
        found("o/m")


@pytest.mark.parametrize(
    "answer",
    [
        "<html>",
        "[]",
        "null",
        "{}",
        '{"sha": "x", "siblings": [1]}',
        '{"sha": "x", "siblings": [{"rfilename": "a\\u0000b"}]}',
    ],
)
def test_words_that_no_hub_uses(hub: Hub, answer: str) -> None:
    hub.says = answer
    with pytest.raises(DownloadFailed, match="words that no hub uses"):
        found("o/m")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="cannot be reached"):
        found("o/m")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HF_ENDPOINT", "hub.example", "HF_ENDPOINT is no address of a hub.*'hub.example'"),
        ("HF_ENDPOINT", "http://[::1", "no hub can be asked"),
        ("HF_TOKEN", "hf_caf\u00e9", "HF_TOKEN holds characters that no token has"),
        ("HF_TOKEN", "hf_secret\nof another line", "HF_TOKEN holds characters that no token has"),
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "SOCKS.*see to HTTPS_PROXY, ALL_PROXY"),
        ("ALL_PROXY", "foo://127.0.0.1", "foo://127.0.0.1.*see to HTTPS_PROXY, ALL_PROXY"),
        ("SSL_CERT_FILE", "/nowhere/certificates", "No such file.*see to .*SSL_CERT_FILE"),
        ("SSL_CERT_FILE", __file__, "certificate.*see to .*SSL_CERT_FILE"),
    ],
)
def test_what_the_environment_says_may_be_wrong(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=words) as refused:
        client()
    assert "secret" not in str(refused.value)
