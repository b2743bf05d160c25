"""What every embedder must do, as checks that a plug-in's own tests can run.

    from headwater.embed.contract import EmbedderContract

    class TestLetters(EmbedderContract):
        def make(self) -> Embedder:
            return Letters("")

pytest collects the `test_…` methods; without pytest, `check(make)` runs them all. Our own embedders
are held to the same checks. Nothing here needs more than the embedder itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial

import anyio
import anyio.lowlevel
import numpy as np

from headwater.embed.base import Embedder, Kind
from headwater.errors import HeadwaterError
from headwater.model import Vectors

TEXTS = (
    "The moon pulls the sea, and the sea follows.",
    "Bread rises because yeast eats sugar.",
    "a",
    "Straße, naïve café, 東京, русский, 🌊",
    "line one\nline two\ttabbed\r\nline three",
    "0 1 2 3.14159 -42 1e10",
    "word " * 2_000,
)
"""Texts with something to embed, short and long, of several scripts."""

ODD = ("\ud800 half a surrogate pair", "nul \x00 inside", "\ufeffbyte order mark", "\u200b")
"""Texts that JSON can carry and that must not break anything."""

TOLERANCE = 2e-3
"""How much one number may differ with the texts a text is embedded with: half precision's noise."""

STOP_S = 30.0
"""An embedder answers everything it holds, one way or the other, this long after being stopped."""

Make = Callable[[], Embedder]
Check = Callable[[Embedder], Awaitable[None]]


class EmbedderContract(ABC):
    """The checks as methods that pytest finds. Each starts a new embedder from `make`."""

    @abstractmethod
    def make(self) -> Embedder:
        """A new embedder, not yet running."""

    def test_it_names_itself_once_it_has_started(self) -> None:
        self._run(names_itself)

    def test_vectors_are_float32_of_its_dimension_and_unit_length(self) -> None:
        self._run(shapes)

    def test_vectors_come_in_the_order_of_the_texts(self) -> None:
        self._run(order)

    def test_a_text_has_one_vector_whatever_it_is_embedded_with(self) -> None:
        self._run(alone_or_together)

    def test_no_texts_give_no_vectors(self) -> None:
        self._run(no_texts)

    def test_a_blank_text_gives_the_zero_vector(self) -> None:
        self._run(blank)

    def test_odd_texts_break_nothing(self) -> None:
        self._run(odd)

    def test_a_thousand_texts_at_once(self) -> None:
        self._run(many)

    def test_concurrent_calls_get_their_own_vectors(self) -> None:
        self._run(concurrent)

    def test_a_cancelled_call_harms_no_other(self) -> None:
        self._run(cancelled)

    def test_the_texts_given_are_not_changed(self) -> None:
        self._run(unchanged)

    def test_when_stopped_nobody_waits_for_ever(self) -> None:
        anyio.run(partial(stopped, self.make))

    def _run(self, check: Check) -> None:
        anyio.run(partial(_with_embedder, self.make, check))


async def check(make: Make) -> None:
    """All checks, each with a new embedder. Raises `AssertionError` at the first that fails."""
    for one in CHECKS:
        await _with_embedder(make, one)
    await stopped(make)


async def names_itself(embedder: Embedder) -> None:
    _expect(bool(embedder.name), "`name` is empty")
    _expect(
        embedder.identity.startswith(embedder.name.partition(":")[0]), "`identity` is not of it"
    )
    _expect(embedder.dimension >= 1, f"`dimension` is {embedder.dimension} after `run` has started")


async def shapes(embedder: Embedder) -> None:
    for kind in _KINDS:
        vectors = await embedder.embed(TEXTS, kind)
        _check_shape(vectors, TEXTS, embedder)
        norms = np.linalg.norm(vectors, axis=1)
        _expect(bool(np.allclose(norms, 1, atol=1e-3)), f"lengths of {kind} vectors: {norms}")


async def order(embedder: Embedder) -> None:
    forwards = await embedder.embed(TEXTS)
    turned = await embedder.embed([*TEXTS[1:], TEXTS[0]])
    _expect_near(np.roll(forwards, -1, axis=0), turned, "vectors are not in the order of the texts")
    similar = forwards @ forwards.T
    _expect(
        bool((similar.argmax(axis=1) == np.arange(len(TEXTS))).all()),
        "different texts have the same vector",
    )


async def alone_or_together(embedder: Embedder) -> None:
    together = await embedder.embed(TEXTS)
    for index, text in enumerate(TEXTS):
        alone = await embedder.embed([text])
        _expect_near(alone[0], together[index], f"{text[:30]!r} has another vector by itself")


async def no_texts(embedder: Embedder) -> None:
    for kind in _KINDS:
        _check_shape(await embedder.embed([], kind), [], embedder)


async def blank(embedder: Embedder) -> None:
    for kind in _KINDS:
        vectors = await embedder.embed(["", "a boat", "  \n\t "], kind)
        _check_shape(vectors, ["", "a boat", " "], embedder)
        norms = np.linalg.norm(vectors, axis=1)
        _expect(bool(np.allclose(norms, [0, 1, 0], atol=1e-3)), f"lengths {norms}, not 0, 1, 0")


async def odd(embedder: Embedder) -> None:
    for kind in _KINDS:
        vectors = await embedder.embed([*ODD, "a boat"], kind)
        _check_shape(vectors, [*ODD, "a boat"], embedder)
        (boat,) = await embedder.embed(["a boat"], kind)
        _expect_near(vectors[-1], boat, "an odd text changed its neighbour's vector")


async def many(embedder: Embedder) -> None:
    texts = [f"text number {number} about the sea" for number in range(1_000)]
    vectors = await embedder.embed(texts)
    _check_shape(vectors, texts, embedder)
    for index in (0, 1, 499, 999):
        (alone,) = await embedder.embed([texts[index]])
        _expect_near(vectors[index], alone, f"text {index} of 1000 has another's vector")


async def concurrent(embedder: Embedder) -> None:
    expected = {text: (await embedder.embed([text]))[0] for text in TEXTS}

    async def one(texts: Sequence[str], kind: Kind) -> None:
        vectors = await embedder.embed(texts, kind)
        _check_shape(vectors, texts, embedder)
        if kind == "document":
            wanted = np.stack([expected[text] for text in texts])
            _expect_near(vectors, wanted, "a concurrent call got another's vectors")

    async with anyio.create_task_group() as calls:
        for turn in range(24):
            start = turn % len(TEXTS)
            texts = (TEXTS[start:] + TEXTS[:start])[: 1 + turn % 5]
            calls.start_soon(one, texts, _KINDS[turn % 4 == 3])


async def cancelled(embedder: Embedder) -> None:
    (expected,) = await embedder.embed(["a boat"])
    with anyio.CancelScope() as scope:
        scope.cancel()
        await embedder.embed(TEXTS * 10)
    async with anyio.create_task_group() as calls:
        calls.start_soon(embedder.embed, TEXTS * 10)
        await anyio.lowlevel.checkpoint()
        calls.cancel_scope.cancel()
    (vector,) = await embedder.embed(["a boat"])
    _expect_near(vector, expected, "after a cancelled call a text has another vector")


async def unchanged(embedder: Embedder) -> None:
    texts = ["", *TEXTS]
    before = list(texts)
    await embedder.embed(texts)
    _expect(texts == before, "the list of texts was changed")


async def stopped(make: Make) -> None:
    """Stop the embedder at work: each call ends, with vectors or with an error of ours."""
    embedder = make()
    ended = 0

    async def one() -> None:
        nonlocal ended
        with suppress(HeadwaterError):
            await embedder.embed(TEXTS)
        ended += 1

    with anyio.move_on_after(STOP_S) as patience:
        async with anyio.create_task_group() as calls:
            async with anyio.create_task_group() as parts:
                await parts.start(embedder.run)
                for _ in range(3):
                    calls.start_soon(one)
                await anyio.lowlevel.checkpoint()
                parts.cancel_scope.cancel()
            calls.start_soon(one)
    _expect(not patience.cancelled_caught and ended == 4, f"{4 - ended} calls were left waiting")


CHECKS: tuple[Check, ...] = (
    names_itself,
    unchanged,
    shapes,
    order,
    alone_or_together,
    no_texts,
    blank,
    odd,
    many,
    concurrent,
    cancelled,
)
"""Those that take a running embedder. `stopped` takes a way to make one."""

_KINDS: tuple[Kind, Kind] = ("document", "query")


async def _with_embedder(make: Make, one: Check) -> None:
    embedder = make()
    failure: AssertionError | None = None
    async with anyio.create_task_group() as parts:
        await parts.start(embedder.run)
        try:
            await one(embedder)
        except AssertionError as error:  # raised below, out of the group: plain to read
            failure = error
        parts.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _check_shape(vectors: Vectors, texts: Sequence[str], embedder: Embedder) -> None:
    _expect(isinstance(vectors, np.ndarray), f"a {type(vectors).__name__}, not a numpy array")
    _expect(vectors.dtype == np.float32, f"vectors of {vectors.dtype}, not float32")
    wanted = (len(texts), embedder.dimension)
    _expect(vectors.shape == wanted, f"vectors of shape {vectors.shape}, not {wanted}")
    _expect(bool(np.isfinite(vectors).all()), "a vector is not finite")


def _expect_near(given: Vectors, wanted: Vectors, otherwise: str) -> None:
    far = float(np.abs(given - wanted).max(initial=0.0))
    _expect(far <= TOLERANCE, f"{otherwise} (a number differs by {far:.4f})")


def _expect(condition: bool, otherwise: str) -> None:
    # Not `assert`: this module is no test file, so its asserts would say nothing.
    if not condition:
        raise AssertionError(otherwise)
