"""The demo's corpus: many documents, unique ids, the same every time, nothing imported."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

from headwater.cli.corpus import docstrings


def test_the_standard_library_gives_thousands_of_documents() -> None:
    modules = set(sys.modules)
    documents = list(docstrings())
    assert set(sys.modules) == modules
    assert 4_000 < len(documents) < 20_000
    by_id = {document["id"]: document for document in documents}
    assert len(by_id) == len(documents)
    assert all(document["text"].strip() for document in documents)
    dumps = by_id["json.dumps"]
    assert dumps["title"] == "json.dumps"
    assert dumps["document_type"] == "function"
    assert dumps["tags"] == ["json"]
    assert dumps["metadata"]["module"] == "json"
    assert "Serialize ``obj`` to a JSON formatted ``str``." in dumps["text"]
    assert not any(document["metadata"]["module"].startswith("test.") for document in documents)


def test_the_order_is_the_same_every_time() -> None:
    assert list(islice(docstrings(), 300)) == list(islice(docstrings(), 300))


def test_every_kind_of_definition_is_found(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text('"""A pack."""\n')
    (tmp_path / "pack" / "broken.py").write_text("def (")
    (tmp_path / "pack" / "thing.py").write_text(
        "class Thing:\n"
        '    """A thing."""\n'
        "    async def go(self, far: int = 1) -> None:\n"
        '        """Goes.\n\n        And comes back.\n        """\n'
        "    def silent(self): ...\n"
        "if True:\n"
        "    def made():\n"
        '        """One way."""\n'
        "else:\n"
        "    def made():\n"
        '        """Another way."""\n'
    )
    found = [(d["id"], d["document_type"], d["text"]) for d in docstrings(tmp_path)]
    assert found == [
        ("pack", "module", "A pack."),
        ("pack.thing.Thing", "class", "A thing."),
        ("pack.thing.Thing.go", "method", "go(self, far: int=1)\n\nGoes.\n\nAnd comes back."),
        ("pack.thing.made", "function", "made()\n\nOne way."),
        ("pack.thing.made:2", "function", "made()\n\nAnother way."),
    ]
