"""A session as a client sees it: whatever frames come, in their order."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


class SessionView:
    """Applies frames as `docs/sessions.md` says; `frames` keeps them all."""

    def __init__(self) -> None:
        self.frames: list[Json] = []
        self.messages: list[Json] = []
        self.people: dict[str, Json] = {}
        self.pins: dict[str, Json] = {}
        self.notes: dict[str, Json] = {}
        self.library = ""
        self.query: Json = {}
        self.results: list[Json] | None = None
        self.results_revision = 0

    def apply(self, frame: Json) -> None:
        self.frames.append(frame)
        match frame["type"]:
            case "state":
                self._state(frame["data"])
            case "event":
                self._event(frame["event"]["type"], frame["event"]["data"])
            case "live":
                self._live(frame["event"], frame["data"], frame["revision"])
            case "message":
                self.messages.append(frame)

    def _state(self, state: Json) -> None:
        self.library = state["session"]["library"]
        self.query = state["query"]
        self.people = {person["person_id"]: person for person in state["people"]}
        self.pins = {pin["pin_id"]: pin for pin in state["pins"]}
        self.notes = {note["note_id"]: note for note in state["notes"]}
        results = state["results"]
        self.results = None if results is None else list(results["hits"])
        self.results_revision = 0 if results is None else results["revision"]

    def _event(self, kind: str, data: Json) -> None:
        match kind:
            case "session.joined":
                self.people[data["person"]["person_id"]] = data["person"]
            case "session.left":
                self.people.pop(data["person"]["person_id"], None)
            case "session.updated":
                self.query = {name: data[name] for name in ("revision", "query", "author")}
                if self.results_revision != data["revision"]:
                    self.results = None
            case "session.pinned":
                self.pins[data["pin"]["pin_id"]] = data["pin"]
            case "session.unpinned":
                self.pins.pop(data["pin"]["pin_id"], None)
            case "session.noted":
                self.notes[data["note"]["note_id"]] = data["note"]
            case "session.note_removed":
                self.notes.pop(data["note"]["note_id"], None)

    def _live(self, event: str, data: Json, revision: int) -> None:
        if event == "snapshot":
            self.results = list(data["results"])
            self.results_revision = revision
        elif event in ("enter", "update", "leave"):
            hit = data["hit"]
            assert self.results is not None
            self.results = [h for h in self.results if h["chunk_id"] != hit["chunk_id"]]
            if event != "leave":
                self.results.insert(hit["rank"] - 1, hit)

    @property
    def names(self) -> list[str]:
        """Who is there, in the order of their coming."""
        return [person["name"] for person in self.people.values()]

    @property
    def found(self) -> list[str] | None:
        """The documents found, best first; None while the query has no results yet."""
        return None if self.results is None else [hit["document_id"] for hit in self.results]
