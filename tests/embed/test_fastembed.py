"""The real fastembed on the real ONNX Runtime, with a model of a few kilobytes made on the spot.

Optional, as these packages are heavy: `pip install fastembed onnx`, else it is skipped. The model
means nothing, but all around it is as with a large one: tokens, padding, pooling, threads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from headwater.embed import Embedder
from headwater.embed.contract import EmbedderContract
from headwater.embed.fastembed import FastEmbed
from headwater.embed.local import BLOCK_TEXTS
from headwater.model import Vectors

WHY = "the extra `fastembed` and the package `onnx` are not installed"
fastembed = pytest.importorskip("fastembed", reason=WHY)
onnx = pytest.importorskip("onnx", reason=WHY)
tokenizers = pytest.importorskip("tokenizers", reason=WHY)

NAME = "headwater/tiny"
DIMENSION = 8
LONGEST = 64
"""Tokens, which here are bytes; what is longer is cut off."""


def table() -> Vectors:
    """A vector for each token: the padding, then the 256 bytes."""
    return np.random.default_rng(7).normal(size=(257, DIMENSION)).astype(np.float32)


def expected(text: str) -> Vectors:
    """The mean of its tokens' vectors, at unit length."""
    tokens = np.frombuffer(text.encode()[:LONGEST], np.uint8).astype(np.int64)
    order = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    letters = _letters()
    rows = [1 + order.index(letters[token]) for token in tokens.tolist()]
    mean: Vectors = table()[rows].mean(axis=0)
    return mean / np.linalg.norm(mean)


def _letters() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary, as GPT-2 has it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (byte for byte in range(256) if byte not in plain)
    moved = {byte: 256 + number for number, byte in enumerate(others)}
    return [chr(moved.get(byte, byte)) for byte in range(256)]


def write_model(folder: Path) -> None:
    """The files that fastembed looks for."""
    folder.mkdir(parents=True)
    vocabulary = {"<pad>": 0}
    for letter in sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[letter] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings: dict[str, dict[str, Any]] = {
        "config.json": {"pad_token_id": 0},
        "tokenizer_config.json": {"model_max_length": LONGEST, "pad_token": "<pad>"},
        "special_tokens_map.json": {"pad_token": "<pad>"},
    }
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content))
    build = onnx.helper
    numbers, tokens = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    graph = build.make_graph(
        [build.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        "tiny",
        [build.make_tensor_value_info("input_ids", tokens, ["texts", "tokens"])],
        [
            build.make_tensor_value_info(
                "last_hidden_state", numbers, ["texts", "tokens", DIMENSION]
            )
        ],
        [onnx.numpy_helper.from_array(table(), "table")],
    )
    model = build.make_model(graph, opset_imports=[build.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))


@pytest.fixture(scope="module", autouse=True)
def _cached(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model lies in fastembed's cache, as if it had been downloaded."""
    cache = tmp_path_factory.mktemp("fastembed")
    repository = cache / f"models--{NAME.replace('/', '--')}"
    write_model(repository / "snapshots" / "1")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1")
    described = fastembed.common.model_description
    if NAME not in [each["model"] for each in fastembed.TextEmbedding.list_supported_models()]:
        fastembed.TextEmbedding.add_custom_model(
            model=NAME,
            pooling=described.PoolingType.MEAN,
            normalization=True,
            sources=described.ModelSource(hf=NAME),
            dim=DIMENSION,
            model_file="model.onnx",
        )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FASTEMBED_CACHE_PATH", str(cache))
        patched.setenv("HF_HUB_OFFLINE", "1")
        yield


class TestContract(EmbedderContract):
    def make(self) -> Embedder:
        return FastEmbed("fastembed", NAME)


@pytest.mark.anyio
async def test_the_vectors_are_the_models_whatever_they_are_batched_with() -> None:
    texts = [f"{'long ' * (number % 9)}text {number}" for number in range(2 * BLOCK_TEXTS + 5)]
    embedder = FastEmbed("fastembed", NAME)
    async with anyio.create_task_group() as group:
        await group.start(embedder.run)
        assert embedder.dimension == DIMENSION
        documents = await embedder.embed(texts)
        queries = await embedder.embed(texts[:3], "query")
        group.cancel_scope.cancel()
    assert np.allclose(documents, [expected(text) for text in texts], atol=1e-5)
    assert np.allclose(queries, documents[:3], atol=1e-5)
