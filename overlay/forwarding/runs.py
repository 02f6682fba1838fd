"""What the engines of this node compute for jobs, and by which ids they know it."""

from __future__ import annotations

from itertools import count

from models.engine import Failed, Finished, GenerationRequest, Priority, RequestEvent
from overlay.forwarding.effects import CancelGeneration, Generate
from overlay.forwarding.job import Job


class Runs:
    """An engine goes on with what was cancelled until it says that it has ended.

    Its request may come again before that. Then it has another id in the engine, or the end of the
    first would be taken for its own.
    """

    def __init__(self) -> None:
        #: By the engines' ids, what they have not ended.
        self._jobs: dict[bytes, Job] = {}
        self._repeated = count()

    def begin(self, job: Job, model: str) -> Generate:
        """The local ``model`` is to answer the job, which has its tokens."""
        assert job.tokens is not None, "a local model has tokenized the prompt"
        run_id = job.request_id
        if run_id in self._jobs:
            run_id += next(self._repeated).to_bytes(8, "big")
        self._jobs[run_id] = job
        job.here = CancelGeneration(model, run_id)
        request = GenerationRequest(
            request_id=run_id,
            tokens=job.tokens,
            sampling=job.sampling,
            priority=Priority.OWNER if job.upstream is None else Priority.GUEST,
            generated=tuple(job.generated),
            delivered_chars=job.delivered_chars,
            # Whom the link authenticated, not whom the path names: a member answers for its guests.
            client=job.client,
        )
        return Generate(model, request)

    def told(self, event: RequestEvent) -> Job | None:
        """Whose event this is, if it is any job's; it may be over, or have gone elsewhere."""
        if isinstance(event, (Finished, Failed)):
            return self._jobs.pop(event.request_id, None)
        return self._jobs.get(event.request_id)
