"""BM25 in plain Python, as tantivy computes it: what keyword search is compared with.

Texts are words of letters between spaces, fewer than forty: up to there tantivy's one-byte lengths
are exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

K1, B = 1.2, 0.75
TITLE_WEIGHT = 1.5

Passages = Mapping[int, tuple[str, str]]
"""Row → title, text."""


def scores(passages: Passages, words: Sequence[str]) -> dict[int, float]:
    """The score of every passage that has one of the words in its title or text."""
    total: dict[int, float] = {}
    for field, weight in ((0, TITLE_WEIGHT), (1, 1.0)):
        texts = {row: passage[field].split() for row, passage in passages.items()}
        mean = sum(map(len, texts.values())) / len(texts) if texts else 0.0
        for word in words:
            having = {row: text.count(word) for row, text in texts.items() if word in text}
            idf = math.log(1 + (len(texts) - len(having) + 0.5) / (len(having) + 0.5))
            for row, count in having.items():
                norm = K1 * (1 - B + B * len(texts[row]) / mean)
                score = weight * idf * (K1 + 1) * count / (count + norm)
                total[row] = total.get(row, 0.0) + score
    return total
