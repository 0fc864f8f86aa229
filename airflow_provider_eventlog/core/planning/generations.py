"""Which generation of a batch a run takes: the one that has its inputs, or the next number.

Inputs are the recipe and the batch, whose slices are frozen. A run that recomputes has its own key in them too where
there is a generation with equal inputs already: it gets one of its own, which its retries and clears find again and no
other run shares. A redrive has in them what its base holds and the records that are run again. Both are written down as
decisions, since neither recipe nor slices tell of them afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_provider_eventlog.core.errors import RequestError
from airflow_provider_eventlog.core.offsets import BatchPlan
from airflow_provider_eventlog.core.protocols import Decision, PlanningTransaction
from airflow_provider_eventlog.core.redriving.decided import REDRIVE, Redrive
from airflow_provider_eventlog.core.requests import RunRequest
from airflow_provider_eventlog.core.staging.records import digest

RECOMPUTE = "recompute"


def inputs(recipe: str, batch: BatchPlan, run_key: str | None = None) -> str:
    """Digest of what a generation is made from; `run_key` is of the run that recomputes."""
    made = [recipe, batch.batch_id, [str(r) for r in batch.slices]]
    return digest(made if run_key is None else [*made, run_key])


@dataclass(frozen=True, slots=True)
class Generations:
    """Finds and allocates the generations of one run, inside its planning transaction.

    recipe     the pipeline's
    recompute  whether the run asked for new generations
    bound      generations that the run was bound to before, by batch
    now        milliseconds since 1970 UTC, for decisions
    """

    tx: PlanningTransaction
    pipeline: str
    recipe: str
    run_key: str
    recompute: bool
    bound: Mapping[str, int]
    now: int

    def missing(self, batch: BatchPlan) -> bool:
        """Whether the run would get a new generation of the batch."""
        return self.tx.allocated(self.pipeline, batch.batch_id, self._inputs(batch)) is None

    def allocate(self, batch: BatchPlan) -> int:
        """The run's generation of a batch; one that is computed anew is decided in the same transaction."""
        wanted = self._inputs(batch)
        known = self.tx.allocated(self.pipeline, batch.batch_id, wanted)
        if known is not None:
            return known
        number = self.tx.allocate(self.pipeline, batch.batch_id, self.recipe, wanted)
        if wanted != inputs(self.recipe, batch):
            why = "the run asked for a new generation of what was computed before"
            self._decide(RECOMPUTE, batch, number, wanted, (f"run {self.run_key}", why))
        return number

    def redrive(self, wanted: Redrive, request: RunRequest) -> int:
        """The run's generation of a batch of which some records are run again, decided in the same transaction.

        Raises RequestError if the batch was derived anew since the records were chosen.
        """
        batch = wanted.batch
        made = wanted.inputs(self.recipe, self.run_key if request.recompute else None)
        known = self.tx.allocated(self.pipeline, batch.batch_id, made)
        if known is not None:
            return known
        number = self.tx.allocate(self.pipeline, batch.batch_id, self.recipe, made)
        # The run's own generation of before, under another recipe, may lie between.
        if number - 1 not in (wanted.base, self.bound.get(batch.batch_id)):
            raise RequestError(
                f"Batch {batch.batch_id} was derived again since generation {wanted.base}, from whose quarantine its "
                f"records were chosen; nothing was planned. Ask for the redrive again."
            )
        self._decide(REDRIVE, batch, number, made, (request.who, request.why), wanted.payload())
        return number

    def _inputs(self, batch: BatchPlan) -> str:
        plain = inputs(self.recipe, batch)
        if not self.recompute:
            return plain
        own = inputs(self.recipe, batch, self.run_key)
        if self.tx.allocated(self.pipeline, batch.batch_id, own) is not None:
            return own
        number = self.tx.allocated(self.pipeline, batch.batch_id, plain)
        # Without equal inputs nothing is computed anew, nor by a later attempt of the run that was the first.
        return plain if number is None or number == self.bound.get(batch.batch_id) else own

    def _decide(
        self,
        kind: str,
        batch: BatchPlan,
        number: int,
        made: str,
        said: tuple[str, str],
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Write down why generation `number` has the inputs `made`; `said` is who decided, and why."""
        who, why = said
        own = {"generation": number, "recipe": self.recipe, "inputs": made, "run": self.run_key}
        self.tx.decide(
            Decision(
                kind=kind,
                stream=batch.stream,
                epoch=batch.epoch,
                pipeline=self.pipeline,
                batch_id=batch.batch_id,
                who=who,
                why=why,
                at=self.now,
                payload={**own, **(more or {})},
            )
        )
