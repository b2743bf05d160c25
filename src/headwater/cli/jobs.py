"""`headwater jobs`: list, show, submit, watch, cancel and retry them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from headwater.cli import output
from headwater.cli.client import DEFAULT_URL, BadInput, Client, Problem, Url, segment
from headwater.cli.feed import EventFeed

app = typer.Typer(
    help="List, show, submit, watch, cancel and retry jobs.", invoke_without_command=True
)
Json = Annotated[bool, typer.Option("--json", help="The server's answer as JSON.")]
Id = Annotated[str, typer.Argument(help="A job's id.")]
Ids = Annotated[list[str], typer.Argument(help="Ids of jobs.")]

_STYLES = {"running": "cyan", "completed": "green", "failed": "red", "cancelled": "yellow"}
_ENDED = {"completed", "failed", "cancelled"}


@app.callback()
def jobs(context: typer.Context, url: Url = DEFAULT_URL) -> None:
    """List, show, submit, watch, cancel and retry jobs. Without a command: list them."""
    if context.invoked_subcommand is None:
        listing(url=url)


@app.command("list")
def listing(
    status: Annotated[
        str | None, typer.Option(help="queued, running, completed, failed, cancelled; or several.")
    ] = None,
    type: Annotated[str | None, typer.Option(help="Only these types.")] = None,
    library: Annotated[str | None, typer.Option("--library", "-l", help="Only of this.")] = None,
    dead: Annotated[
        bool, typer.Option("--dead", help="Those that failed and have no attempts left.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, the newest first."""
    wanted = {"status": status, "type": type, "library": library}
    if dead and (status or library):
        raise BadInput("--dead goes with --type only")
    params = [(name, value) for name, value in wanted.items() if value is not None]
    with Client(url) as client:
        path = "/v1/jobs/dead" if dead else "/v1/jobs"
        page = client.request("GET", path, params=[*params, ("limit", str(limit))])
    if as_json:
        for job in page["jobs"]:
            _json(job)
        return
    if not page["jobs"]:
        output.note("No such jobs.")
        return
    table = output.table(
        *("id", "type", "status", "progress", "attempt", "created"),
        right=("attempt",),
        whole=("id", "type"),  # to be copied
    )
    for job in page["jobs"]:
        table.add_row(
            job["job_id"],
            output.clean(job["type"]),
            _status(job),
            Text(_progress(job["progress"])),
            f"{job['attempt']}/{job['max_attempts']}",
            str(job["created_at"])[:19].replace("T", " "),
        )
    output.out.print(table)
    if page["next"]:
        output.note("There are more; --limit shows more of them.")


@app.command()
def show(id: Id, as_json: Json = False, url: Url = DEFAULT_URL) -> None:
    """Show all of a job."""
    with Client(url) as client:
        job = client.request("GET", f"/v1/jobs/{segment(id)}")
    if as_json:
        _json(job)
        return
    table = output.table("field", "value")
    table.show_header = False
    for name, value in job.items():
        shown = Text("–", style="dim")
        if name == "status":
            shown = _status(job)
        elif name == "progress":
            shown = Text(_progress(value))
        elif value is not None:
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            shown = Text(output.clean(text))
        table.add_row(name, shown)
    output.out.print(table)


@app.command()
def submit(
    type: Annotated[str, typer.Argument(help="As `headwater jobs submit retention`.")],
    library: Annotated[str | None, typer.Option("--library", "-l", help="A name or id.")] = None,
    params: Annotated[str | None, typer.Option(help="A JSON object.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100)] = 0,
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: a second time gives the first job.")
    ] = None,
    wait: Annotated[bool, typer.Option("--watch", "-w", help="Watch it to its end.")] = False,
    as_json: Json = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a job."""
    body: dict[str, Any] = {"type": type, "priority": priority}
    if library is not None:
        body["library"] = library
    if key is not None:
        body["idempotency_key"] = key
    if params is not None:
        try:
            body["params"] = msgspec.json.decode(params, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadInput(f"--params must be a JSON object ({error})") from error
    with Client(url) as client:
        job = client.request("POST", "/v1/jobs", json=body)
    if as_json:
        _json(job)
    else:
        output.out.print(Text(str(job["job_id"])))
    if wait:
        watch([job["job_id"]], url=url)


@app.command()
def watch(
    ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of jobs; without, all that there are.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Watch jobs until they have ended. Exit code 1 when one has not completed."""
    with Client(url) as client, _bars() as bars:
        board = Board(client, list(dict.fromkeys(ids or [])), bars)
        try:
            if not board.over:
                for event in JobFeed(client, board).all():
                    if event.type == "reset":
                        board.look()
                    elif event.type.startswith("job."):
                        board.take(msgspec.json.decode(event.data)["data"])
                    if board.over:
                        break
        except AllOver:
            pass
        except KeyboardInterrupt:
            output.note("Stopped watching; the jobs go on.")
            return
    if board.bad:
        raise typer.Exit(1)


class Board:
    """The watched jobs as they stand, each with a bar, or lines when nobody looks."""

    def __init__(self, client: Client, ids: list[str], bars: Progress) -> None:
        self.bad = False
        self._client = client
        self._wanted = ids
        self._left = set(ids)
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, str] = {}
        self.look()

    @property
    def over(self) -> bool:
        """Whether all that was asked for has ended; never when everything is watched."""
        return bool(self._wanted) and not self._left

    def look(self) -> None:
        """Learn how the jobs stand now."""
        if self._wanted:
            for id in sorted(self._left):
                self.take(self._client.request("GET", f"/v1/jobs/{segment(id)}"))
            return
        params = (("status", "queued,running"), ("limit", "100"))
        for job in reversed(self._client.request("GET", "/v1/jobs", params=params)["jobs"]):
            self.take(job)

    def take(self, job: dict[str, Any]) -> None:
        """Show a job as it is now."""
        id = str(job["job_id"])
        if self._wanted and id not in self._left:
            return
        self._show(id, job)
        if job["status"] in _ENDED:
            self._left.discard(id)
            self.bad = self.bad or job["status"] != "completed"

    def _show(self, id: str, job: dict[str, Any]) -> None:
        progress, status = job["progress"], str(job["status"])
        told = status
        if status == "queued" and job.get("error"):
            told = f"waits again ({job['error']['code']})"
        elif status == "failed" and job.get("error"):
            told = f"failed: {output.clean(str(job['error']['detail']))}"
        elif job.get("cancel_requested"):
            told = "stopping"
        elif status == "running" and progress["message"]:
            told = output.clean(progress["message"])
        if not output.err.is_terminal:
            if self._said.get(id) != told:
                self._said[id] = told
                output.line(f"{id} {job['type']} {told}")
            return
        if id not in self._tasks:
            self._tasks[id] = self._bars.add_task("", total=None, note="")
        total = progress["total"]
        completed = progress["current"]
        if status in _ENDED and total is None:
            total = completed = max(1, completed)
        self._bars.update(
            self._tasks[id],
            description=f"{output.clean(job['type'])} [dim]{id[-8:]}[/dim]",
            completed=completed,
            total=total,
            note=_pace(progress) + told,
        )
        if status in _ENDED:
            self._bars.stop_task(self._tasks[id])


class AllOver(Exception):
    """Every watched job has ended."""


class JobFeed(EventFeed):
    """The changes of all jobs from when the board has looked."""

    def __init__(self, client: Client, board: Board) -> None:
        super().__init__(
            client, "GET", "/v1/events/stream", params=[("types", "job.*")], after="now"
        )
        self._board = board
        self._looked = False

    def ready(self, cursor: str) -> None:
        super().ready(cursor)
        if not self._looked:  # what happened before this was not told
            self._looked = True
            self._board.look()
            if self._board.over:  # and no event may ever come
                raise AllOver


@app.command()
def cancel(ids: Ids, url: Url = DEFAULT_URL) -> None:
    """Cancel jobs, also while they run."""
    _each(ids, url, "cancel")


@app.command()
def retry(ids: Ids, url: Url = DEFAULT_URL) -> None:
    """Try failed or cancelled jobs again."""
    _each(ids, url, "retry")


def _each(ids: list[str], url: str, action: str) -> None:
    """Of each, whatever becomes of the others; exit code 1 when one was refused."""
    refused = False
    with Client(url) as client:
        for id in dict.fromkeys(ids):
            try:
                job = client.request("POST", f"/v1/jobs/{segment(id)}/{action}")
            except Problem as problem:
                if len(ids) == 1:
                    raise
                output.failure(problem.code, f"{id}: {problem.detail}")
                refused = True
                continue
            status = "stopping" if job["cancel_requested"] else job["status"]
            output.out.print(Text(f"{id} {status}"))
    if refused:
        raise typer.Exit(1)


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        console=output.err,
        disable=not output.err.is_terminal,
    )


def _status(job: dict[str, Any]) -> Text:
    status = "dead" if job["dead"] else str(job["status"])
    return Text(status, style=_STYLES.get(str(job["status"]), "dim"))


def _progress(progress: dict[str, Any]) -> str:
    parts = []
    if progress["percentage"] is not None:
        parts.append(f"{progress['percentage']:.0f} %")
    if progress["current"]:
        total = "" if progress["total"] is None else f" of {progress['total']:,}"
        parts.append(f"{progress['current']:,}{total}")
    if progress["message"]:
        parts.append(output.clean(progress["message"]))
    return ", ".join(parts) or "–"


def _pace(progress: dict[str, Any]) -> str:
    parts = []
    if progress["rate"]:
        parts.append(f"{progress['rate']:,.0f}/s")
    if progress["eta_seconds"]:
        parts.append(f"{progress['eta_seconds']:,.0f} s left")
    return f"{', '.join(parts)}  " if parts else ""


def _json(value: Any) -> None:
    output.line(msgspec.json.encode(value).decode())
