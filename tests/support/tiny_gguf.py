"""GGUFs of random weights in the architectures that people run: load in no time, talk nonsense.

Their vocabulary is one token per byte, a few merges, and ChatML's control tokens (or others), so
every text tokenizes and every answer is made of bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
#: How many tokens back the sliding layers of gemma2, gemma3 and gpt-oss-like models see here.
WINDOW: Final = 24


class _Model:
    """What every architecture's tensors are written with."""

    def __init__(self, writer: gguf.GGUFWriter, seed: int, layers: int, width: int) -> None:
        self.writer = writer
        self.layers = layers
        self.width = width
        self._random = np.random.default_rng(seed)

    def tensor(self, name: str, *shape: int) -> None:
        # Large enough weights that answers depend on the whole prompt.
        values = self._random.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1])
        self.writer.add_tensor(name, values.astype(np.float32))

    def ones(self, name: str, size: int | None = None) -> None:
        self.writer.add_tensor(name, np.ones(size or self.width, np.float32))

    def below_zero(self, name: str, *shape: int) -> None:
        self.writer.add_tensor(name, -self._random.uniform(0.1, 1, shape).astype(np.float32))


def write_tiny_gguf(
    path: Path,
    *,
    architecture: str = "llama",
    name: str = "tiny",
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    context: int = 512,
    seed: int = 1,
    template: str | None = CHATML,
    add_bos: bool = False,
    control_tokens: Sequence[str] = CONTROL_TOKENS,
    sentencepiece: bool = False,
    tensors_per_file: int = 0,
) -> Path:
    """Write the model and return its file. The same arguments give the same file.

    ``width`` must be a multiple of ``heads``; each head then has an even number of dimensions.
    ``control_tokens``: of the last two, one begins a text and the other ends an answer.
    ``sentencepiece``: tokenize like Llama 2 and Gemma, not like GPT-2.
    ``tensors_per_file``: in several files beside ``path``, of which the first is returned.
    """
    writer = gguf.GGUFWriter(str(path), architecture, split_max_tensors=tensors_per_file)
    model = _Model(writer, seed, layers, width)
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_layer_norm_rms_eps(1e-5)
    add_tokenizer = _add_sentencepiece if sentencepiece else _add_bytes_and_merges
    tokens = add_tokenizer(writer, control_tokens)
    writer.add_add_bos_token(add_bos)
    if template is not None:
        writer.add_chat_template(template)
    ARCHITECTURES[architecture](model, heads, tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-*")) if tensors_per_file else path


# --- architectures ----------------------------------------------------------------------------


def _llama(model: _Model, heads: int, tokens: int) -> None:
    """Also Mistral's."""
    _attention_keys(model, heads, heads)
    _ends(model, tokens)
    for layer in range(model.layers):
        _attention(model, layer, heads, heads)
        _feed_forward(model, layer)


def _qwen2(model: _Model, heads: int, tokens: int) -> None:
    """Several heads share keys and values; these have biases."""
    _attention_keys(model, heads, heads // 2)
    _ends(model, tokens)
    for layer in range(model.layers):
        _attention(model, layer, heads, heads // 2)
        for part, size in (("q", model.width), ("k", model.width // 2), ("v", model.width // 2)):
            model.tensor(f"blk.{layer}.attn_{part}.bias", size)
        _feed_forward(model, layer)


def _qwen3(model: _Model, heads: int, tokens: int) -> None:
    """Queries and keys are normed."""
    _attention_keys(model, heads, heads // 2)
    _ends(model, tokens)
    for layer in range(model.layers):
        _attention(model, layer, heads, heads // 2)
        _attention_norms(model, layer, heads)
        _feed_forward(model, layer)


def _gemma2(model: _Model, heads: int, tokens: int) -> None:
    """Every other layer sees only a window of the last tokens; logits are capped."""
    _attention_keys(model, heads, heads // 2)
    model.writer.add_sliding_window(WINDOW)
    model.writer.add_attn_logit_softcapping(50.0)
    model.writer.add_final_logit_softcapping(30.0)
    _ends(model, tokens, tied=True)
    for layer in range(model.layers):
        _attention(model, layer, heads, heads // 2)
        _feed_forward(model, layer)
        _post_norms(model, layer)


def _gemma3(model: _Model, heads: int, tokens: int) -> None:
    """Five layers with a window to one without (here: all, for there are few layers)."""
    _attention_keys(model, heads, heads // 2)
    model.writer.add_sliding_window(WINDOW)
    _ends(model, tokens, tied=True)
    for layer in range(model.layers):
        _attention(model, layer, heads, heads // 2)
        _attention_norms(model, layer, heads)
        _feed_forward(model, layer)
        _post_norms(model, layer)


def _phi3(model: _Model, heads: int, tokens: int) -> None:
    """Fused projections; llama.cpp ignores the window that its files name."""
    _attention_keys(model, heads, heads)
    model.writer.add_sliding_window(WINDOW)
    _ends(model, tokens)
    for layer in range(model.layers):
        block = f"blk.{layer}"
        model.ones(f"{block}.attn_norm.weight")
        model.tensor(f"{block}.attn_qkv.weight", 3 * model.width, model.width)
        model.tensor(f"{block}.attn_output.weight", model.width, model.width)
        model.ones(f"{block}.ffn_norm.weight")
        model.tensor(f"{block}.ffn_up.weight", 4 * model.width, model.width)
        model.tensor(f"{block}.ffn_down.weight", model.width, 2 * model.width)


def _mamba(model: _Model, _heads: int, tokens: int) -> None:
    """No attention: one recurrent state per sequence."""
    writer, width = model.writer, model.width
    inner, states, rank, kernel = 2 * width, 16, 4, 4
    writer.add_head_count(0)
    writer.add_feed_forward_length(0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(states)
    writer.add_ssm_time_step_rank(rank)
    _ends(model, tokens)
    for layer in range(model.layers):
        block = f"blk.{layer}"
        model.ones(f"{block}.attn_norm.weight")
        model.tensor(f"{block}.ssm_in.weight", 2 * inner, width)
        model.tensor(f"{block}.ssm_conv1d.weight", inner, kernel)
        model.tensor(f"{block}.ssm_conv1d.bias", inner)
        model.tensor(f"{block}.ssm_x.weight", rank + 2 * states, inner)
        model.tensor(f"{block}.ssm_dt.weight", inner, rank)
        model.tensor(f"{block}.ssm_dt.bias", inner)
        model.below_zero(f"{block}.ssm_a", inner, states)
        model.ones(f"{block}.ssm_d", inner)
        model.tensor(f"{block}.ssm_out.weight", width, inner)


def _lfm2(model: _Model, heads: int, tokens: int) -> None:
    """A hybrid: convolutions with a short memory in every other layer, attention in the rest."""
    writer, width, kernel = model.writer, model.width, 3
    kv_heads = [heads // 2 if layer % 2 else 0 for layer in range(model.layers)]
    _attention_keys(model, heads, kv_heads)
    writer.add_shortconv_l_cache(kernel)
    _ends(model, tokens, tied=True, norm="token_embd_norm")
    for layer in range(model.layers):
        block = f"blk.{layer}"
        if kv_heads[layer]:
            _attention(model, layer, heads, heads // 2)
            _attention_norms(model, layer, heads)
        else:
            model.ones(f"{block}.attn_norm.weight")
            model.tensor(f"{block}.shortconv.conv.weight", width, kernel)
            model.tensor(f"{block}.shortconv.in_proj.weight", 3 * width, width)
            model.tensor(f"{block}.shortconv.out_proj.weight", width, width)
        _feed_forward(model, layer)


ARCHITECTURES: Final[dict[str, Callable[[_Model, int, int], None]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "mamba": _mamba,
    "lfm2": _lfm2,
}


# --- their parts ------------------------------------------------------------------------------


def _attention_keys(model: _Model, heads: int, kv_heads: int | list[int]) -> None:
    model.writer.add_feed_forward_length(2 * model.width)
    model.writer.add_head_count(heads)
    model.writer.add_head_count_kv(kv_heads)
    model.writer.add_rope_dimension_count(model.width // heads)


def _ends(model: _Model, tokens: int, *, tied: bool = False, norm: str = "output_norm") -> None:
    """The tables of tokens; ``tied``: one serves as input and output."""
    model.tensor("token_embd.weight", tokens, model.width)
    model.ones(f"{norm}.weight")
    if not tied:
        model.tensor("output.weight", tokens, model.width)


def _attention(model: _Model, layer: int, heads: int, kv_heads: int) -> None:
    block, shared = f"blk.{layer}", model.width // heads * kv_heads
    model.ones(f"{block}.attn_norm.weight")
    model.tensor(f"{block}.attn_q.weight", model.width, model.width)
    model.tensor(f"{block}.attn_k.weight", shared, model.width)
    model.tensor(f"{block}.attn_v.weight", shared, model.width)
    model.tensor(f"{block}.attn_output.weight", model.width, model.width)


def _attention_norms(model: _Model, layer: int, heads: int) -> None:
    for part in ("q", "k"):
        model.ones(f"blk.{layer}.attn_{part}_norm.weight", model.width // heads)


def _feed_forward(model: _Model, layer: int) -> None:
    block = f"blk.{layer}"
    model.ones(f"{block}.ffn_norm.weight")
    model.tensor(f"{block}.ffn_gate.weight", 2 * model.width, model.width)
    model.tensor(f"{block}.ffn_up.weight", 2 * model.width, model.width)
    model.tensor(f"{block}.ffn_down.weight", model.width, 2 * model.width)


def _post_norms(model: _Model, layer: int) -> None:
    for part in ("post_attention_norm", "post_ffw_norm"):
        model.ones(f"blk.{layer}.{part}.weight")


# --- tokenizer --------------------------------------------------------------------------------


def _add_bytes_and_merges(writer: gguf.GGUFWriter, control: Sequence[str]) -> int:
    """GPT-2's byte-level BPE in small; returns the number of tokens."""
    texts = [*_byte_characters(), *(merge.replace(" ", "") for merge in MERGES), *control]
    kinds = [gguf.TokenType.NORMAL] * (len(texts) - len(control))
    kinds += [gguf.TokenType.CONTROL] * len(control)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(len(texts) - 2)
    writer.add_eos_token_id(len(texts) - 1)
    return len(texts)


def _add_sentencepiece(writer: gguf.GGUFWriter, control: Sequence[str]) -> int:
    """A SentencePiece model in small: pieces with scores, and bytes for all else."""
    seen = [chr(code) for code in range(0x21, 0x7F)]
    pieces = ["\N{LOWER ONE EIGHTH BLOCK}", "\N{LOWER ONE EIGHTH BLOCK}t", "th", "the", *seen]
    texts = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *control]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * len(pieces) + [gguf.TokenType.CONTROL] * len(control)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_scores([float(-n) for n in range(len(texts))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(len(texts) - 2)
    writer.add_eos_token_id(len(texts) - 1)
    return len(texts)


def _byte_characters() -> list[str]:
    """GPT-2's stand-ins: each byte as a character that can be seen."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    stand_in = {byte: chr(byte) for byte in visible}
    stand_in |= {byte: chr(256 + index) for index, byte in enumerate(hidden)}
    return [stand_in[byte] for byte in range(256)]
