"""Hypothesis strategies: metadata and filters that meet often, in tricky values."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

PATHS = ["a", "b", "a.b", "a.c", "b.a.b", "d"]
BIG = 2**53

numbers = st.sampled_from([0, 1, -1, 2, 2.0, 2.5, -0.0, BIG, BIG + 1, float(BIG), -BIG - 1, 10**30])
strings = st.sampled_from(
    [
        "",
        "x",
        "X",
        "xy",
        "é",
        "\U0001f600",
        "￿",
        "2024-01-31",
        "2024-01-31T00:00:00Z",
        "2024-01-31T01:00:00+01:00",
        "2024-01-31T00:00:00.000001",
        "2023-12-31T23:59:59-05:00",
        "2024-02-30",
        "1",
    ]
)
scalars: st.SearchStrategy[Any] = st.one_of(numbers, strings, st.booleans(), st.none())
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "c", "a.b"]), inner, max_size=3)
    ),
    max_leaves=6,
)
metadata = st.dictionaries(st.sampled_from(["a", "b", "a.b", "d"]), values, max_size=4)


def _condition() -> st.SearchStrategy[dict[str, Any]]:
    one = st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne", "$contains"]), scalars),
        st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3)),
        st.tuples(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.one_of(numbers, strings)),
        st.tuples(st.just("$exists"), st.booleans()),
    )
    conditions = st.lists(one, min_size=1, max_size=2).map(dict)
    return conditions | conditions.map(lambda inner: {"$not": inner})


fields = st.dictionaries(st.sampled_from(PATHS), scalars | _condition(), max_size=2)
filters = st.recursive(
    fields,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
