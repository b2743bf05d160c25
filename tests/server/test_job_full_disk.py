"""A disk that fills up under jobs and uploads: a clear error, no rest, all well with room again.

The data folder is a small file system in memory. Mounting one takes rights that not everybody has.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import invariants
import pytest
from server.client import Client, Json, answer, ndjson
from server.running import Server, eventually

SIZE = 96 << 20
COUNT = 6_000
NDJSON = "application/x-ndjson"


class Disk:
    """A file system with little room, which can be taken and given back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken = folder / "taken"

    def leave(self, room_bytes: int) -> None:
        """Take all the room there is but that much."""
        with self._taken.open("ab", buffering=0) as file:
            piece = bytes(1 << 20)
            try:
                while file.write(piece) == len(piece):
                    pass
                while file.write(piece[:4096]):
                    pass
            except OSError:
                pass
            file.truncate(max(0, file.tell() - room_bytes))

    def free(self) -> None:
        self._taken.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def server(disk: Disk, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "in").mkdir()
    settings: dict[str, Any] = {
        "transfer__import_folder": tmp_path / "in",
        "ingest__group_lines": 50,
        "jobs__max_attempts": 1,
    }
    with Server(disk.folder / "data", **settings) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


def documents(count: int = COUNT) -> bytes:
    filling = "word " * 100
    return ndjson({"id": f"d{number}", "text": f"{number} {filling}"} for number in range(count))


def stands(client: Client, id: str) -> Json:
    return answer(client.http.get(f"/v1/jobs/{id}"))


def ended(client: Client, id: str, said: Any) -> Json:
    eventually(lambda: stands(client, id)["finished_at"], f"the end of job {id}", 60, said=said)
    return stands(client, id)


def test_upload_to_a_full_disk_is_refused_and_leaves_nothing(
    server: Server, client: Client, disk: Disk
) -> None:
    library = client.create_library()["id"]
    client.stream(library, [{"id": "a", "text": "there before"}], response="summary")

    def send() -> Any:
        return client.http.post(
            "/v1/jobs/batch-import",
            content=documents(20_000),
            params={"library": library},
            headers={"content-type": NDJSON},
        )

    disk.leave(4 << 20)
    response = send()
    assert (response.status_code, response.json()["code"]) == (507, "disk_full")
    assert response.json()["retryable"] is True
    assert list((server.data / "jobs").iterdir()) == []
    assert answer(client.http.get("/v1/jobs"))["jobs"] == []
    assert client.search(library, "before", k=1)["results"][0]["document_id"] == "a"


def test_import_on_a_full_disk_fails_and_goes_on_where_it_was(
    server: Server, client: Client, disk: Disk, tmp_path: Path
) -> None:
    (tmp_path / "in" / "many.ndjson").write_bytes(documents())
    library = client.create_library()["id"]
    disk.leave(8 << 20)
    body = {"library": library, "path": "many.ndjson"}
    id = answer(client.http.post("/v1/jobs/batch-import", json=body))["job_id"]
    eventually(
        lambda: stands(client, id)["finished_at"] or b"end_not_written" in server.log.read_bytes(),
        "the disk to be full",
        said=server.said,
    )
    assert 0 < len(client.documents(library)) < COUNT
    disk.free()  # if there was none for its end, that is written as soon as there is room
    job = ended(client, id, server.said)
    assert (job["status"], job["error"]["code"], job["dead"]) == ("failed", "store_failed", True)
    assert "disk is full" in job["error"]["detail"]
    assert job["error"]["retryable"] is True
    answer(client.http.post(f"/v1/jobs/{id}/retry"))
    job = ended(client, id, server.said)
    assert job["status"] == "completed", job
    wanted = {"received": COUNT, "created": COUNT, "updated": 0, "unchanged": 0, "failed": 0}
    assert job["result"] | wanted == job["result"]
    held = client.documents(library)
    assert len(held) == COUNT
    assert {one["version"] for one in held.values()} == {1}
    invariants.log_tells_what_is_there(client, library)


def test_server_on_a_full_disk_stops_and_its_job_goes_on_with_room_again(
    server: Server, client: Client, disk: Disk, tmp_path: Path
) -> None:
    (tmp_path / "in" / "many.ndjson").write_bytes(documents())
    library = client.create_library()["id"]
    disk.leave(8 << 20)
    body = {"library": library, "path": "many.ndjson", "max_attempts": 5}
    id = answer(client.http.post("/v1/jobs/batch-import", json=body))["job_id"]
    eventually(
        lambda: b"end_not_written" in server.log.read_bytes() or stands(client, id)["error"],
        "the disk to be full",
        said=server.said,
    )
    disk.leave(0)
    assert server.stop() < 15  # `jobs.stop` is 3 s, for its thread and for its end
    disk.free()
    server.start()
    job = ended(client, id, server.said)
    assert (job["status"], job["result"]["created"]) == ("completed", COUNT)
    invariants.log_tells_what_is_there(client, library)


def test_export_to_a_full_disk_fails_and_leaves_no_file(
    server: Server, client: Client, disk: Disk
) -> None:
    library = client.create_library()["id"]
    client.stream_raw(library, documents(2_000), response="summary")
    disk.leave(2 << 20)
    body = {"library": library, "include": ["vectors"]}
    id = answer(client.http.post("/v1/jobs/batch-export", json=body))["job_id"]
    job = ended(client, id, server.said)
    assert (job["status"], job["error"]["code"], job["dead"]) == ("failed", "disk_full", True)
    folder = server.data / "jobs" / id
    assert list(folder.iterdir()) == []
    assert client.http.get(f"/v1/jobs/{id}/download").json()["code"] == "file_not_found"
    disk.free()
    answer(client.http.post(f"/v1/jobs/{id}/retry"))
    job = ended(client, id, server.said)
    assert job["status"] == "completed", job
    assert len(client.http.get(job["result"]["download"]).text.splitlines()) == 2_000
