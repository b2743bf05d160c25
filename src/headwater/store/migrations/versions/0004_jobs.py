"""Jobs, the schedules that submit them, the workers that run them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("row", key, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("library_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("due", sa.Integer, nullable=False),
        sa.Column("dead", sa.Integer, nullable=False),
        sa.Column("cancel_requested", sa.Integer, nullable=False),
        sa.Column("advanced", sa.Integer, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("not_before_us", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("lease", sa.Integer, nullable=False),
        sa.Column("lease_until_us", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("schedule_id", sa.Text),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sa.Column("started_us", sa.BigInteger),
        sa.Column("finished_us", sa.BigInteger),
        sa.Column("position", sa.BigInteger, nullable=False),
        sa.Column("current", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("message", sa.Text),
        sa.Column("rate", sa.Float),
        sa.Column("error", sa.LargeBinary),
        sa.Column("params", sa.LargeBinary, nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.Column("saved", sa.LargeBinary),
        sa.UniqueConstraint("type", "idempotency_key", name="jobs_idempotency"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "jobs_ready",
        "jobs",
        ["type", "rank", "not_before_us"],
        sqlite_where=sa.text("status = 'queued' AND due = 1"),
    )
    op.create_index(
        "jobs_delayed",
        "jobs",
        ["not_before_us"],
        sqlite_where=sa.text("status = 'queued' AND due = 0"),
    )
    op.create_index("jobs_held", "jobs", ["worker"], sqlite_where=sa.text("status = 'running'"))
    op.create_index("jobs_status", "jobs", ["status", "type"])
    op.create_index("jobs_library", "jobs", ["library_id"])
    op.create_index("jobs_finished", "jobs", ["status", "finished_us"])
    op.create_table(
        "schedules",
        sa.Column("row", key, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("library_id", sa.Text),
        sa.Column("params", sa.LargeBinary, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("cron", sa.Text),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("every_us", sa.BigInteger),
        sa.Column("missed", sa.Text, nullable=False),
        sa.Column("paused", sa.Integer, nullable=False),
        sa.Column("next_us", sa.BigInteger, nullable=False),
        sa.Column("last_us", sa.BigInteger),
        sa.Column("last_job_id", sa.Text),
        sa.Column("fired", sa.Integer, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("schedules_next", "schedules", ["paused", "next_us"])
    op.create_table(
        "workers",
        sa.Column("process", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("types", sa.LargeBinary, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("started_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.Column("own", sa.LargeBinary, nullable=False),
    )
