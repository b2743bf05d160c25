"""Files as lines: every format, every compression, from every mark, and damaged ones."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

from headwater.errors import HeadwaterError, InvalidJob, UnreadableFile
from headwater.service.lines import Line
from headwater.service.sources import Columns, Format, Mark, csv_lines, format_of, open_source

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

LIMIT = 100_000
BEGINNING = Mark()


def lines_of(
    content: bytes,
    name: str,
    start: Mark = BEGINNING,
    *,
    limit: int = LIMIT,
    **options: Any,
) -> tuple[list[Line], list[Mark]]:
    options.setdefault("columns", Columns())
    with open_source(
        io.BytesIO(content), name, format_of(name, path="path"), line_bytes=limit, **options
    ) as source:
        lines: list[Line] = []
        marks: list[Mark] = []
        for batch in source.batches(start):
            lines += batch.lines
            marks.append(batch.mark)
        return lines, marks


def documents(lines: list[Line]) -> list[dict[str, Any]]:
    made = []
    for line in lines:
        assert isinstance(line.body, bytes), line.body
        made.append(json.loads(line.body))
    return made


def table(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, **options)
    return file.getvalue()


NDJSON = b"".join(b'{"id":"%d","text":"number %d"}\n' % (n, n) for n in range(5_000))
CSV = "id,text\n" + "".join(f'{n},"number\n{n}"\n' for n in range(2_000))
PARQUET = table(
    {"id": [str(n) for n in range(2_000)], "text": [f"number {n}" for n in range(2_000)]},
    row_group_size=300,
)
SAMPLES: dict[str, bytes] = {
    "a.ndjson": NDJSON,
    "a.jsonl.gz": gzip.compress(NDJSON),
    "a.ndjson.zst": zstandard.compress(NDJSON[:100_000]) + zstandard.compress(NDJSON[100_000:]),
    "a.csv": CSV.encode(),
    "a.csv.gz": gzip.compress(CSV.encode()),
    "a.parquet": PARQUET,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_source_goes_on_from_any_mark_with_the_same_lines(name: str) -> None:
    lines, marks = lines_of(SAMPLES[name], name)
    assert len(lines) in (2_000, 5_000)
    assert [document["id"] for document in documents(lines)] == [
        str(number) for number in range(len(lines))
    ]
    for mark in [marks[0], marks[len(marks) // 2], marks[-1]]:
        rest, _ = lines_of(SAMPLES[name], name, mark)
        assert rest == [line for line in lines if line.number > mark.line]


@pytest.mark.parametrize("name", SAMPLES)
def test_lines_are_counted_where_that_is_cheap(name: str) -> None:
    with open_source(
        io.BytesIO(SAMPLES[name]),
        name,
        format_of(name, path="path"),
        line_bytes=LIMIT,
        columns=Columns(),
    ) as source:
        count = source.count()
    wanted = {"a.ndjson": 5_000, "a.csv": 4_001, "a.parquet": 2_000}
    assert count == wanted.get(name)


def test_csv_columns_become_a_document() -> None:
    rows = 'id,title,text,metadata,year,empty\nx,T,Hello,"{""a"": 1}",1999,\n,,There,,,\n'
    lines, _ = lines_of(rows.encode(), "a.csv")
    assert documents(lines) == [
        {"id": "x", "title": "T", "text": "Hello", "metadata": {"a": 1, "year": "1999"}},
        {"text": "There"},
    ]


def test_csv_with_other_names_tabs_and_encoding() -> None:
    rows = "Schlüssel\tInhalt\nä\tGrüße\n"
    lines, _ = lines_of(
        rows.encode("latin-1"),
        "a.tsv",
        columns=Columns(id="Schlüssel", text="Inhalt"),
        encoding="latin-1",
    )
    assert documents(lines) == [{"id": "ä", "text": "Grüße"}]


def test_bad_csv_record_harms_no_other() -> None:
    rows = "text,metadata\ngood,\ntoo,many,fields\nbad,{no json\nlast,\n"
    lines, _ = lines_of(rows.encode(), "a.csv")
    told = [line.body.code if isinstance(line.body, HeadwaterError) else "" for line in lines]
    assert (told[0], told[-1]) == ("", "")
    assert set(told[1:-1]) == {"invalid_document"}


@pytest.mark.parametrize(
    ("content", "name", "options"),
    [
        (b"", "a.csv", {}),
        (b"a,a\n1,2\n", "a.csv", {}),
        (b"x,y\n1,2\n", "a.csv", {}),
        (b"text\nok\n", "a.csv", {"columns": Columns(id="key")}),
        (b"text\n\xff\xfe\n", "a.csv", {}),
        (b"text" + b"x" * 2_000 + b"\nok\n", "a.csv", {"limit": 1_000}),
        (b"no parquet at all", "a.parquet", {}),
        (b"no gzip at all", "a.ndjson.gz", {}),
        (gzip.compress(NDJSON)[:-100], "a.ndjson.gz", {}),
        (zstandard.compress(NDJSON)[100:], "a.ndjson.zst", {}),
        (zstandard.compress(NDJSON)[:-1], "a.ndjson.zst", {}),
        (zstandard.compress(NDJSON) + zstandard.compress(NDJSON)[:-1], "a.ndjson.zst", {}),
        (zstandard.compress(b"text\nx\n")[:-1], "a.csv.zst", {}),
        (b"no zstd at all", "a.csv.zst", {}),
        (b"text\nx\n", "a.csv", {"encoding": "utf-16"}),
        (table({"x": [1]}), "a.parquet", {}),
    ],
)
def test_file_that_cannot_be_read_is_refused_as_a_whole(
    content: bytes, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(UnreadableFile):
        lines_of(content, name, **options)


def test_zstd_frames_one_after_another_are_one_file() -> None:
    half = len(NDJSON) // 2
    frames = zstandard.compress(NDJSON[:half]) + zstandard.compress(NDJSON[half:])
    assert lines_of(frames, "a.ndjson.zst")[0] == lines_of(NDJSON, "a.ndjson")[0]


def test_parquet_row_with_a_value_out_of_range_harms_no_other() -> None:
    times = pyarrow.array([0, 1 << 62, 1], pyarrow.timestamp("us"))
    lines, _ = lines_of(table({"text": ["a", "b", "c"], "at": times}), "a.parquet")
    told = [line.body.code if isinstance(line.body, HeadwaterError) else "" for line in lines]
    assert told == ["", "invalid_document", ""]


def test_parquet_values_keep_their_types() -> None:
    content = table(
        {
            "id": [1, 2, 3],
            "text": ["a", None, "c"],
            "vector": [[0.5, 1.5], None, None],
            "texts": [None, ["x", "y"], None],
            "chunks": [
                None,
                None,
                [{"text": "t", "vector": [1.0, 2.0], "metadata": '{"page": 3}'}],
            ],
            "metadata": ['{"k": [1]}', None, None],
            "year": [1999, None, 2001],
        }
    )
    lines, _ = lines_of(content, "a.parquet")
    assert documents(lines) == [
        {
            "id": "1",
            "chunks": [{"text": "a", "vector": [0.5, 1.5]}],
            "metadata": {"k": [1], "year": 1999},
        },
        {"id": "2", "texts": ["x", "y"]},
        {
            "id": "3",
            "chunks": [{"text": "t", "vector": [1.0, 2.0], "metadata": {"page": 3}}],
            "metadata": {"year": 2001},
        },
    ]


def test_name_says_the_format() -> None:
    names = {
        "A.NDJSON": "ndjson",
        "b.jsonl.zst": "ndjson",
        "c.tsv.gz": "csv",
        "d.parquet": "parquet",
    }
    found: dict[str, Format] = {name: format_of(name, path="path") for name in names}
    assert found == names
    for name in ("a", "a.txt", ".gz", "a.gz"):
        with pytest.raises(InvalidJob):
            format_of(name, path="path")


def test_random_csv_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    rows = [[f"{n}", f'quote " comma , {n}\r\nline', "" if n % 3 else "v"] for n in range(700)]
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerows([["id", "text", "extra"], *rows])
    lines, marks = lines_of(file.getvalue().encode(), "a.csv")
    assert [
        (d["id"], d["text"], d.get("metadata", {}).get("extra", "")) for d in documents(lines)
    ] == [tuple(row) for row in rows]
    rest, _ = lines_of(file.getvalue().encode(), "a.csv", marks[1])
    assert rest == lines[512:]


def told(lines: list[Line]) -> list[tuple[int, str]]:
    """Each line's number, and its text or the code of its error."""
    return [
        (line.number, line.body.code)
        if isinstance(line.body, HeadwaterError)
        else (line.number, json.loads(line.body or b"")["text"])
        for line in lines
    ]


@pytest.mark.parametrize(
    ("record", "last"),
    [
        ("x" * 2_000, 3),
        ("x" * 200_000, 3),
        ('"' + "x\n" * 2_000 + '"', 2_003),
        ('"' + 'a ""quote"",\r\n' * 100 + '"', 103),
        ('"' + "x" * 999 + '""",\n', 3),
        ('5" pipe ' + "x" * 1_000, 3),
        ('"a" "b' + "x" * 1_000, 3),
        ("x" * 1_001 + "\r", 3),
        ("x" * 1_002 + "\r", 3),
        ('"' + "x" * 998 + "\n" + '"', 4),
    ],
)
def test_csv_record_over_the_limit_harms_no_other(record: str, last: int) -> None:
    content = f"text\nfirst\n{record}\nlast\n".encode()
    lines, marks = lines_of(content, "a.csv", limit=1_000)
    wanted = [(2, "first"), (last, "line_too_long"), (last + 1, "last")]
    if record.endswith(",\n"):  # one field too many, and an empty line
        wanted = [(2, "first"), (last, "line_too_long"), (last + 2, "last")]
    assert told(lines) == wanted
    assert "begins at line 3" in str(lines[1].body)
    rest, _ = lines_of(content, "a.csv", Mark(last, 2), limit=1_000)
    assert rest == lines[2:]
    assert marks[-1] == Mark(wanted[-1][0], 3)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_record_of_the_limit_is_read(end: str) -> None:
    rows = ["x" * 1_000, '"' + "y" * 996 + f'{end[-1]}z"']
    lines, _ = lines_of(end.join(["text", *rows, "last"]).encode(), "a.csv", limit=1_000)
    assert [text[:1] for _, text in told(lines)] == ["x", "y", "l"]


def test_quote_that_is_never_closed_costs_the_records_behind_it_and_no_others() -> None:
    rows = [f"number {n}" for n in range(50)]
    rows[10] = '"number 10'
    lines, _ = lines_of("\n".join(["text", *rows]).encode(), "a.csv", limit=100)
    assert told(lines) == [
        *((n + 2, f"number {n}") for n in range(10)),
        (51, "line_too_long"),
    ]


def test_csv_of_random_sizes_is_read_as_the_library_reads_it() -> None:
    dice = random.Random(5)
    alphabet = ["a", '"', '""', ",", "\n", "\r\n", " ", "x" * 30]
    content, wanted, number = "text,more\r\n", [], 1
    for _ in range(2_000):
        row = ["".join(dice.choices(alphabet, k=dice.randrange(12))) for _ in range(2)]
        file = io.StringIO(newline="")
        csv.writer(file).writerow(row)
        record = file.getvalue()
        number += record.count("\n")
        fits = len(record) - 2 <= 100
        wanted.append((number, row[0] if fits else "line_too_long"))
        content += record
    lines, _ = lines_of(content.encode(), "a.csv", limit=100)
    assert told(lines) == wanted
    assert 200 < sum(text == "line_too_long" for _, text in wanted) < 1_800


def test_long_way_past_a_record_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_lines, "_PAST_AT_ONCE", 1_000)
    content = ("text\nfirst\n" + '"' + "x\n" * 5_000 + '"\nlast\n').encode()
    lines, marks = lines_of(content, "a.csv", limit=100)
    assert [text for _, text in told(lines)] == ["first", "line_too_long", "last"]
    assert marks[0] == Mark(2, 1)
    assert len(marks) >= 10
