"""Measures how well a running server finds docstrings by their first paragraph, mode by mode.

Run by whoever changes the model or the ranking, against `headwater serve`; the numbers go into the
model card's second table. It makes a library for each source tree and deletes it again, and never
touches others. The trees must be those of the card for the numbers to stand beside its others.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import httpx
from docstring_task import Pairs, pairs

MODES = ("vector", "keyword", "hybrid")
DEPTH = 100


def fill(client: httpx.Client, library: str, task: Pairs, embedder: str) -> None:
    client.post("/v1/libraries", json={"name": library, "embedder": embedder}).raise_for_status()
    # `texts`, so that every answer stays one passage, as it was one vector in the card.
    lines = "".join(
        json.dumps({"id": str(number), "texts": [answer]}) + "\n"
        for number, (_, answer) in enumerate(task)
    )
    path = f"/v1/libraries/{library}/documents/stream?response=summary"
    answer = client.post(path, content=lines.encode()).raise_for_status()
    summary = json.loads(answer.text.splitlines()[-1])
    if summary["created"] != len(task):
        raise SystemExit(f"not everything was stored: {summary}")


def quality(client: httpx.Client, library: str, task: Pairs, mode: str) -> list[float]:
    """R@1, R@10 and MRR of the order in which the server answers; past `DEPTH` is a miss."""
    ranks: list[float] = []
    for number, (query, _) in enumerate(task):
        body = {"query": query, "mode": mode, "k": DEPTH}
        answer = client.post(f"/v1/libraries/{library}/search", json=body).raise_for_status()
        found = [hit["document_id"] for hit in answer.json()["results"]]
        ranks.append(found.index(str(number)) + 1 if str(number) in found else float("inf"))
    return [
        sum(rank <= 1 for rank in ranks) / len(ranks),
        sum(rank <= 10 for rank in ranks) / len(ranks),
        sum(1 / rank for rank in ranks) / len(ranks),
    ]


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, help="source trees; default: the stdlib")
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--embedder", default="static")
    options = parser.parse_args(arguments)
    trees = options.trees or [Path(sysconfig.get_paths()["stdlib"])]
    print("| tree | pairs | mode | R@1 | R@10 | MRR |\n|---|---:|---|---|---|---|")
    with httpx.Client(base_url=options.server, timeout=120) as client:
        for place, tree in enumerate(trees):
            task = pairs(tree)
            library = f"measure-retrieval-{place}"
            try:
                fill(client, library, task, options.embedder)
                for mode in MODES:
                    cells = " | ".join(
                        f"{cell:.3f}" for cell in quality(client, library, task, mode)
                    )
                    print(f"| {tree.name} | {len(task)} | {mode} | {cells} |", flush=True)
            finally:
                client.delete(f"/v1/libraries/{library}")


if __name__ == "__main__":
    main(sys.argv[1:])
