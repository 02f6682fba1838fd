"""Write a GGUF of random weights in the shape of Qwen2.5-0.5B, quantised to Q8_0.

It talks nonsense, but costs what a model of 0.5 B parameters costs: 494 M weights, 0.5 GB. The
tokenizer and the chat template are the demo model's, its vocabulary padded to Qwen's size. Control
and padding tokens have zero embeddings, hence logits of zero, so that no answer ends early; so
have tokens that are no ASCII text, for parts of characters would hold back the text of an answer.

    python -m tests.bench.half_billion_gguf OUT.gguf
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.support.model_store import shared_store

LAYERS = 24
WIDTH = 896
HEADS = 14
KV_HEADS = 2
FEED_FORWARD = 4864
VOCABULARY = 151_936
CONTEXT = 8192
SEED = 20_250_607

Q8_0 = gguf.GGMLQuantizationType.Q8_0
BLOCK_WEIGHTS, BLOCK_BYTES = gguf.GGML_QUANT_SIZES[Q8_0]
#: Standard deviation of bytes drawn evenly from -127..127.
BYTE_DEVIATION = 73.3
HEAD_WIDTH = WIDTH // HEADS
#: How a byte-level vocabulary writes blanks, among much else.
BYTE_LEVEL = str.maketrans({"Ġ": " ", "Ċ": "\n", "ĉ": "\t"})

#: name, rows, columns; one row of columns with norms of F32.
Shape = tuple[str, int, int]


def matrices() -> Iterator[Shape]:
    yield "token_embd.weight", VOCABULARY, WIDTH
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        yield prefix + "attn_q.weight", WIDTH, WIDTH
        yield prefix + "attn_k.weight", KV_HEADS * HEAD_WIDTH, WIDTH
        yield prefix + "attn_v.weight", KV_HEADS * HEAD_WIDTH, WIDTH
        yield prefix + "attn_output.weight", WIDTH, WIDTH
        yield prefix + "ffn_gate.weight", FEED_FORWARD, WIDTH
        yield prefix + "ffn_up.weight", FEED_FORWARD, WIDTH
        yield prefix + "ffn_down.weight", WIDTH, FEED_FORWARD


def norms() -> Iterator[str]:
    for layer in range(LAYERS):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"
    yield "output_norm.weight"


def random_blocks(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Q8_0 rows whose products keep the variance of what they multiply."""
    blocks = np.frombuffer(
        bytearray(rng.bytes(rows * columns // BLOCK_WEIGHTS * BLOCK_BYTES)), dtype=np.uint8
    ).reshape(-1, BLOCK_BYTES)
    weights = blocks[:, 2:].view(np.int8)
    np.maximum(weights, -127, out=weights)
    blocks[:, :2] = np.array([columns**-0.5 / BYTE_DEVIATION], dtype="<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def write(out: Path, demo: Path) -> int:
    """Write the model tensor by tensor; returns the number of weights."""
    rng = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("Random 0.5B")
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_WIDTH)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(VOCABULARY)
    silent = add_tokenizer(writer, demo)

    shapes = list(matrices())
    for name, rows, columns in shapes:
        row_bytes = columns // BLOCK_WEIGHTS * BLOCK_BYTES
        shape = (rows, row_bytes)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), rows * row_bytes, raw_dtype=Q8_0)
    for name in norms():
        writer.add_tensor_info(name, (WIDTH,), np.dtype(np.float32), WIDTH * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for done, (_, rows, columns) in enumerate(shapes):
        blocks = random_blocks(rng, rows, columns)
        if rows == VOCABULARY:
            blocks[silent] = 0
        writer.write_tensor_data(blocks)
        show(done + 1, len(shapes))
    for _ in norms():
        writer.write_tensor_data(np.ones(WIDTH, dtype=np.float32))
    writer.close()
    return sum(rows * columns for _, rows, columns in shapes)


def add_tokenizer(writer: gguf.GGUFWriter, demo: Path) -> npt.NDArray[np.int64]:
    """Copy the demo model's tokenizer, padded; returns the tokens that must never be chosen."""
    fields = gguf.GGUFReader(demo).fields
    kinds: list[int] = fields["tokenizer.ggml.token_type"].contents()
    tokens: list[str] = fields["tokenizer.ggml.tokens"].contents()
    silent = [
        kind != gguf.TokenType.NORMAL or not token.translate(BYTE_LEVEL).isascii()
        for kind, token in zip(kinds, tokens, strict=True)
    ]
    padding = VOCABULARY - len(tokens)
    silent += [True] * padding
    tokens += [f"<|padding_{number}|>" for number in range(padding)]
    kinds += [int(gguf.TokenType.UNUSED)] * padding
    writer.add_tokenizer_model(fields["tokenizer.ggml.model"].contents())
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_bos_token_id(fields["tokenizer.ggml.bos_token_id"].contents())
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"].contents())
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(fields["tokenizer.chat_template"].contents())
    return np.flatnonzero(silent)


def show(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r  {done} of {total} tensors", end="", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a GGUF to copy it from (the demo model)")
    arguments = parser.parse_args()
    demo = arguments.tokenizer or shared_store().ensure("demo", lambda done, total: None).path
    partial = arguments.out.with_suffix(".partial")
    weights = write(partial, demo)
    partial.replace(arguments.out)
    size = arguments.out.stat().st_size
    print(f"\r{arguments.out}: {weights / 1e6:.0f} M weights, {size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
