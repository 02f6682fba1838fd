"""A GGUF of random weights in the llama architecture: loads in no time, talks nonsense.

Its vocabulary is one token per byte, a few merges, and ChatML's control tokens, so every text
tokenizes and every answer is made of bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf
import numpy as np

CHATML: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROL_TOKENS: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
#: Pairs that become one token, so that tokenization is more than bytes.
MERGES: Final = ("t h", "th e", "a n", "i n", "e r")


def write_tiny_gguf(
    path: Path,
    *,
    name: str = "tiny",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 512,
    seed: int = 1,
    template: str | None = CHATML,
    add_bos: bool = False,
) -> Path:
    """Write the model and return ``path``. The same arguments give the same file.

    ``width`` must be a multiple of ``heads``; each head then has an even number of dimensions.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = _add_tokenizer(writer, add_bos)
    if template is not None:
        writer.add_chat_template(template)

    def tensor(tensor_name: str, *shape: int) -> None:
        # Large enough weights that answers depend on the whole prompt.
        values = random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1])
        writer.add_tensor(tensor_name, values.astype(np.float32))

    def ones(tensor_name: str) -> None:
        writer.add_tensor(tensor_name, np.ones(width, np.float32))

    tensor("token_embd.weight", tokens, width)
    ones("output_norm.weight")
    tensor("output.weight", tokens, width)
    for layer in range(layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        for projection in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"{block}.{projection}.weight", width, width)
        ones(f"{block}.ffn_norm.weight")
        tensor(f"{block}.ffn_gate.weight", 2 * width, width)
        tensor(f"{block}.ffn_up.weight", 2 * width, width)
        tensor(f"{block}.ffn_down.weight", width, 2 * width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, add_bos: bool) -> int:
    """GPT-2's byte-level BPE in small; returns the number of tokens."""
    texts = [*_byte_characters(), *(merge.replace(" ", "") for merge in MERGES), *CONTROL_TOKENS]
    kinds = [gguf.TokenType.NORMAL] * (len(texts) - len(CONTROL_TOKENS))
    kinds += [gguf.TokenType.CONTROL] * len(CONTROL_TOKENS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(texts.index("<|im_start|>"))
    writer.add_eos_token_id(texts.index("<|im_end|>"))
    writer.add_add_bos_token(add_bos)
    return len(texts)


def _byte_characters() -> list[str]:
    """GPT-2's stand-ins: each byte as a character that can be seen."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    stand_in = {byte: chr(byte) for byte in visible}
    stand_in |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [stand_in[byte] for byte in range(256)]
