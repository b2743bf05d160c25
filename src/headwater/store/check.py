"""Is the store consistent in itself? Used by `headwater doctor` and at the end of tests.

Each check is one query that finds what must not be there; nothing is ever repaired here.
"""

from __future__ import annotations

import sqlite3

_SHOWN = 5

_CHECKS = (
    (
        "library {0} counts {1} documents and has {2}",
        "SELECT l.id, l.documents, count(d.row) AS real FROM libraries l "
        "LEFT JOIN documents d ON d.library = l.number WHERE l.deleted_us IS NULL "
        "GROUP BY l.number HAVING l.documents <> real",
    ),
    (
        "library {0} counts {1} chunks and has {2}",
        "SELECT l.id, l.chunks, count(c.row) AS real FROM libraries l "
        "LEFT JOIN chunks c ON c.library = l.number WHERE l.deleted_us IS NULL "
        "GROUP BY l.number HAVING l.chunks <> real",
    ),
    (
        "document {0!r} (row {1}) belongs to no library",
        "SELECT d.id, d.row FROM documents d LEFT JOIN libraries l ON l.number = d.library "
        "WHERE l.number IS NULL",
    ),
    (
        "document {0!r} (row {1}) names {2} chunks and has {3} in its span",
        "SELECT d.id, d.row, d.num_chunks, count(c.row) AS real FROM documents d "
        "LEFT JOIN chunks c ON c.row BETWEEN d.first_chunk AND d.first_chunk + d.num_chunks - 1 "
        "AND c.document = d.row AND c.library = d.library "
        "AND c.ordinal = c.row - d.first_chunk "
        "GROUP BY d.row HAVING d.num_chunks <> real",
    ),
    (
        "chunk {0} is in no document's span",
        "SELECT c.row FROM chunks c LEFT JOIN documents d ON d.row = c.document "
        "AND c.row BETWEEN d.first_chunk AND d.first_chunk + d.num_chunks - 1 "
        "WHERE d.row IS NULL",
    ),
    (
        "chunk {0} has a vector of {1} bytes in a library of dimension {2}",
        "SELECT c.row, length(c.vector), l.dimension FROM chunks c "
        "JOIN libraries l ON l.number = c.library WHERE length(c.vector) <> 4 * l.dimension "
        "AND NOT EXISTS (SELECT 1 FROM next_vectors n WHERE n.row = c.row "
        "AND n.generation = l.generation)",
    ),
    (
        "library {0} counts {1} pending documents and has {2}",
        "SELECT l.id, l.pending, count(p.document) AS real FROM libraries l "
        "LEFT JOIN pending p ON p.library = l.number WHERE l.deleted_us IS NULL "
        "GROUP BY l.number HAVING l.pending <> real",
    ),
    (
        "job {0} is {1}, which does not go with its lease, due mark or end",
        "SELECT id, status FROM jobs WHERE (status = 'running') <> (lease_until_us > 0) "
        "OR (status IN ('queued', 'running')) <> (finished_us IS NULL) "
        "OR (status = 'running' AND worker IS NULL) OR (due = 1 AND status <> 'queued') "
        "OR (dead = 1 AND status <> 'failed') OR (cancel_requested = 1 AND status <> 'running')",
    ),
    (
        "row {0} is pending and is no document with a chunk that has no vector",
        "SELECT p.document FROM pending p LEFT JOIN documents d "
        "ON d.row = p.document AND d.library = p.library "
        "WHERE d.row IS NULL OR NOT EXISTS (SELECT 1 FROM chunks c WHERE c.vector IS NULL "
        "AND c.row BETWEEN d.first_chunk AND d.first_chunk + d.num_chunks - 1)",
    ),
    (
        "chunk {0} has no vector, and its document is not pending",
        "SELECT c.row FROM chunks c LEFT JOIN pending p ON p.document = c.document "
        "WHERE c.vector IS NULL AND p.document IS NULL AND NOT EXISTS (SELECT 1 FROM "
        "next_vectors n JOIN libraries l ON l.number = n.library WHERE n.row = c.row "
        "AND n.generation = l.generation AND n.vector IS NOT NULL)",
    ),
    (
        "document {0!r} was last changed at {1}, where the log tells of no such change",
        "SELECT d.id, d.position FROM documents d JOIN libraries l ON l.number = d.library "
        "LEFT JOIN changes h ON h.position = d.position AND h.subject = d.id "
        "AND h.library_id = l.id AND h.type IN "
        "('document.added', 'document.updated', 'document.embedded') "
        "WHERE h.position IS NULL "
        "AND d.position > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'trimmed')",
    ),
    (
        "library {0} was last changed at {1}, where the log tells of no such change",
        "SELECT l.id, l.position FROM libraries l "
        "LEFT JOIN changes h ON h.position = l.position AND h.library_id = l.id "
        "WHERE h.position IS NULL AND l.deleted_us IS NULL "
        "AND l.position > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'trimmed')",
    ),
    (
        "library {0} counts {1} alerts, and has {2}",
        "SELECT l.id, coalesce(m.value, 0), count(a.row) FROM libraries l "
        "LEFT JOIN alerts a ON a.library = l.number "
        "LEFT JOIN meta m ON m.key = 'alerts.' || l.number "
        "WHERE l.deleted_us IS NULL GROUP BY l.number "
        "HAVING CAST(coalesce(m.value, 0) AS INTEGER) <> count(a.row)",
    ),
    (
        "alert {0} belongs to no library",
        "SELECT a.id FROM alerts a LEFT JOIN libraries l ON l.number = a.library "
        "WHERE l.number IS NULL",
    ),
    (
        "{0} {1!r} belongs to no session",
        "SELECT 'person', p.id FROM session_people p LEFT JOIN sessions s ON s.row = p.session "
        "WHERE s.row IS NULL UNION ALL "
        "SELECT m.kind, m.id FROM session_marks m LEFT JOIN sessions s ON s.row = m.session "
        "WHERE s.row IS NULL",
    ),
    (
        "session {0!r} is on a library that does not know it",
        "SELECT s.id FROM sessions s LEFT JOIN libraries l ON l.number = s.library "
        "WHERE l.number IS NULL OR (s.name IS NULL) <> (l.deleted_us IS NOT NULL)",
    ),
    (
        "the log's time goes back at position {0}",
        "SELECT position FROM (SELECT position, at_us, lag(at_us) OVER (ORDER BY position) AS was "
        "FROM changes) WHERE at_us < was",
    ),
    (
        "the log still has position {0}, below its trim point",
        "SELECT position FROM changes WHERE position <= "
        "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'trimmed')",
    ),
    (
        "keys of {0} were given out up to {1}, yet the next would be {2}",
        "SELECT t, top, seq FROM (SELECT 'chunks' AS t, max(row) AS top FROM chunks "
        "UNION ALL SELECT 'documents', max(row) FROM documents "
        "UNION ALL SELECT 'changes', max(position) FROM changes) "
        "LEFT JOIN sqlite_sequence ON name = t WHERE top > coalesce(seq, 0)",
    ),
)


def check(db: sqlite3.Connection) -> list[str]:
    """What is wrong, a sentence each; of each kind the first few. Reads everything once."""
    wrong = [
        f"the database file is damaged: {told}"
        for (told,) in db.execute("PRAGMA quick_check(5)").fetchall()
        if told != "ok"
    ]
    for sentence, query in _CHECKS:
        found = db.execute(query).fetchmany(_SHOWN + 1)
        wrong += [sentence.format(*row) for row in found[:_SHOWN]]
        if len(found) > _SHOWN:
            wrong.append(f"… and more like the last one (only {_SHOWN} are shown)")
    return wrong
