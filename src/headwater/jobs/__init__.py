"""Jobs: long work in the background, durable, watched, controlled."""

from headwater.jobs.base import JobCancelled, JobContext, JobHandler, Params, Result, State
from headwater.jobs.registry import Registry

__all__ = [
    "JobCancelled",
    "JobContext",
    "JobHandler",
    "Params",
    "Registry",
    "Result",
    "State",
]
