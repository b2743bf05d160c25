"""The shipped model is the one its card describes."""

from __future__ import annotations

import hashlib
import json
import re

import pytest
from safetensors.numpy import load_file

from headwater.embed.static import FOLDER

FILES = ("model.safetensors", "tokenizer.json", "config.json", "LICENSE")


@pytest.mark.parametrize("name", FILES)
def test_the_card_has_the_size_and_checksum_of(name: str) -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    row = re.search(rf"\| `{re.escape(name)}` \| ([\d,]+) \| `([0-9a-f]{{64}})` \|", card)
    assert row is not None, f"{name} is not in the card"
    content = (FOLDER / name).read_bytes()
    assert int(row[1].replace(",", "")) == len(content)
    assert row[2] == hashlib.sha256(content).hexdigest()


def test_nothing_else_is_shipped() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*FILES, "MODEL_CARD.md"}


def test_the_model_is_int8_and_small() -> None:
    table = load_file(FOLDER / "model.safetensors")["embeddings"]
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert table.dtype.name == config["embedding_dtype"] == "int8"
    assert table.shape[1] == config["hidden_dim"] == 256
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 8_500_000


def test_the_licence_names_the_source_and_the_changes() -> None:
    licence = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "sentence-transformers/all-MiniLM-L6-v2" in licence
    assert "Changes:" in licence
    assert "Apache License" in licence
