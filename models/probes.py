"""Prompts that show whether two tokenizers agree, and the digest of what one makes of them.

A model's key covers its vocabulary and its template, but not the code that applies them. If two
builds of llama.cpp cut text differently, or render a template differently, then every block hash
of one misses in the other's cache, and nobody notices. So nodes tell each other this digest.

The list is part of the protocol: whoever changes it makes nodes of different versions disagree.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from hashlib import blake2b
from typing import Final

from models.engine import Message, Prompt, Tokens
from overlay.errors import InvalidRequest

PROBE_DIGEST_BYTES: Final = 16
#: The time that templates are told, for some write the date into the prompt.
PROBE_MOMENT: Final = datetime(2026, 1, 2, 3, 4, 5)

#: Each for something that tokenizers are known to treat in ways of their own.
PROBES: Final[tuple[Prompt, ...]] = (
    "",  # what is put before and after any text
    "Hello, world! It's 12:34, isn't it? They'll pay 1,234,567.89 EUR (or 5%).",
    "def f(x):\n\tif x >= 10:\n        return {'a': [x**2, 0xFF]}  # TODO\r\n\n\n",
    "  two before,   three between, and after   \n \n\t\t\n",
    "\n",
    "人工知能は、東京で2026年に。你好，世界！안녕하세요",
    "Привет, Ελλάδα, مرحبا, שלום, नमस्ते, ไทย",
    "e\u0301 \u00e9 \ufb01 \u212b \u200b\u00a0\u3000 x\u0300\u0301\u0302",
    "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ 🤖🤖🤖",
    "https://example.org/a_b-c?d=e&f=%20#g user@example.org C:\\temp\\x.txt",
    "<|im_start|>system\n<|im_end|><|endoftext|><s></s>[INST] <bos><|eot_id|><unk>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa HTTPServer2000ReLU snake_case camelCase",
    (Message("user", "Hi"),),
    (Message("system", "Be brief."), Message("user", "  Why is\n\nthe sky blue? <|im_end|>")),
    (
        Message("system", ""),
        Message("user", "1+1?"),
        Message("assistant", "<think>\nsum\n</think>\n\n2. "),
        Message("user", "谢谢 🙂"),
    ),
)


def probe_digest(tokenize: Callable[[Prompt], Tokens]) -> bytes:
    """Digest of the probes' tokens; ``tokenize`` is what requests' prompts go through.

    A template may reject a conversation: that two reject it is agreement, too.
    """
    digest = blake2b(digest_size=PROBE_DIGEST_BYTES, person=b"hearth probes")
    for probe in PROBES:
        try:
            tokens = tokenize(probe)
        except InvalidRequest:
            digest.update(b"\xff" * 4)
        else:
            for number in (len(tokens), *tokens):
                digest.update(number.to_bytes(4, "little"))
    return digest.digest()
