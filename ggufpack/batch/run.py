"""Items through the journal: what is finished is checked, what is not is claimed, cleaned up and built."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, replace

from ggufpack.batch import existing
from ggufpack.batch.inputs import Inputs, spec_digest
from ggufpack.batch.items import Executor, Item, ItemHandler, Outcome
from ggufpack.batch.journal import Claim, Entry, Held, Journal, State
from ggufpack.batch.planning import Planned
from ggufpack.batch.remains import clean_up_remains
from ggufpack.batch.result import Row
from ggufpack.batch.urls import shown
from ggufpack.engine.choose import find_server
from ggufpack.errors import CheckpointFileError, GgufpackError
from ggufpack.package_folder import RECORD_NAME
from ggufpack.registry import OllamaServer
from ggufpack.spec import BuildSpec, Event, Note, StageFinished, StageStarted
from ggufpack.target import target_of

_WAIT_SECONDS = 1.0
_STATES: dict[str, State] = {"verified": "done", "unverified": "done", "failed": "failed", "error": "error"}


@dataclass(frozen=True)
class _Taken:
    """An item to build. ``last`` is what the journal knew of it."""

    planned: Planned
    item: Item
    claim: Claim
    inputs: Inputs
    last: Entry | None


class BatchRun:
    """Runs items.

    Args:
        journal: open.
        executor: carries items out.
        restart: build finished items again.
        trust_mtime: take an input's digest from the journal when size, mtime in ns, inode and device are
            those it had when it was computed. Otherwise every byte is read, and nothing is trusted.
        on_event: gets events with their item's key.
    """

    def __init__(
        self,
        journal: Journal,
        executor: Executor,
        *,
        restart: bool = False,
        trust_mtime: bool = False,
        on_event: ItemHandler,
    ) -> None:
        self._journal = journal
        self._executor = executor
        self._restart = restart
        self._trust_mtime = trust_mtime
        self._on_event = on_event
        self._taken: dict[str, _Taken] = {}
        self._digests: dict[str, Future[str]] = {}
        # digests are computed beside the build, which reads the same pages
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="digest")

    def close(self) -> None:
        """End what still computes digests."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, planned: Sequence[Planned]) -> Iterator[Row]:
        """One row for each item, as they end. Items of other living batches on the journal are waited for."""
        clean_up_remains(self._journal, planned, lambda key, why: self._on_event(key, Note(why)))
        pending, restart, told = list(planned), self._restart, set[str]()
        while pending:
            elsewhere: list[Planned] = []
            self._taken.clear()
            for one in pending:
                taken = self._take(one, restart=restart)
                if isinstance(taken, Row):
                    yield taken
                elif isinstance(taken, Held):
                    elsewhere.append(one)
                    if one.item.key not in told:
                        told.add(one.item.key)
                        self._on_event(one.item.key, Note(f"It runs in {taken.owner}; waiting for it"))
                else:
                    self._taken[one.item.key] = taken
            if self._taken:
                yield from self._build()
            elif elsewhere:
                time.sleep(_WAIT_SECONDS)
            pending, restart = elsewhere, False

    # --- before a build -----------------------------------------------------------

    def _take(self, planned: Planned, *, restart: bool) -> Row | _Taken | Held:
        """A finished item's row, or a claim."""
        item, claim = planned.item, None
        try:
            digest = spec_digest(item.spec)
            inputs = Inputs.of(item.spec)
            server = find_server(item.spec)
            with nullcontext() if server is None else closing(server):
                while claim is None:
                    entry = self._journal.entry(planned.folder)
                    if (
                        entry is not None
                        and not restart
                        and entry.state == "done"
                        and entry.spec_digest == digest
                        and self._is_finished(entry, inputs, item.spec, server)
                    ):
                        return Row(planned, _outcome(item.key, entry), reused=True)
                    claim = self._journal.claim(
                        planned.folder,
                        key=item.key,
                        checkpoint=item.spec.checkpoint,
                        spec_digest=digest,
                        seen=entry,
                    )
                if isinstance(claim, Held):
                    return claim
                return self._prepare(planned, claim, inputs, entry, digest, server)
        except GgufpackError as error:
            outcome = Outcome(item.key, "error", None, error.to_json(), 0.0)
            if isinstance(claim, Claim):
                self._finish(claim, outcome, entry)
            return Row(planned, outcome)

    def _prepare(
        self,
        planned: Planned,
        claim: Claim,
        inputs: Inputs,
        entry: Entry | None,
        digest: str,
        server: OllamaServer | None,
    ) -> Row | _Taken:
        """Clean up after a killed build; its package is taken when it had come as far as that."""
        spec, target = planned.item.spec, target_of(planned.item.spec)
        existing.clean_up(target.folder, claim.token)
        own = set(existing.published(target.folder, claim.token))
        if entry is not None:
            own |= set(entry.outputs.values())
        if server is not None:
            own |= existing.clean_up_server(server, claim.token)
        record = existing.read_own_record(target.folder, claim.token)
        if record is not None:
            own |= {file["sha256"] for file in record["result"]["files"]}
            if entry is not None and entry.state == "claimed" and entry.spec_digest == digest:
                result = existing.result_of(record, target.folder)
                outcome = Outcome(planned.item.key, result["status"], result, None, 0.0)
                if self._is_adoptable(entry, outcome, inputs, spec, server):
                    existing.settle(target.folder, claim.token)
                    self._finish(claim, outcome, entry)
                    return Row(planned, outcome, reused=True)
        self._journal.inputs(claim, None)
        overwrite = spec.overwrite
        if not overwrite:
            existing.check_free(target.folder, overwrite=record is not None)
            ours = server is not None and existing.refuse_foreign_names(server, target, own)
            overwrite = record is not None or ours
        built = replace(spec, token=claim.token, overwrite=overwrite)
        return _Taken(planned, replace(planned.item, spec=built), claim, inputs, entry)

    def _is_finished(
        self, entry: Entry, inputs: Inputs, spec: BuildSpec, server: OllamaServer | None
    ) -> bool:
        """Whether inputs and outputs of a finished item are, by digest, what they were."""
        if entry.outcome is None or not existing.is_whole(entry.target, entry.outputs):
            return False
        same = entry.input_digest == self._digest(inputs)
        return same and existing.is_registered(
            server, target_of(spec), entry.outcome["result"], spec.from_model
        )

    def _is_adoptable(
        self,
        entry: Entry,
        outcome: Outcome,
        inputs: Inputs,
        spec: BuildSpec,
        server: OllamaServer | None,
    ) -> bool:
        """Whether a killed build had put this package there, and finished but for the journal."""
        result = outcome.result
        if result is None or outcome.status not in ("verified", "unverified") or entry.input_digest is None:
            return False
        folder = target_of(spec).folder
        if entry.outputs.get(RECORD_NAME) == existing.digest_of(folder / RECORD_NAME):
            return False  # the package of an earlier build
        return (
            existing.is_whole(folder, existing.outputs_of(result))
            and entry.input_digest == self._digest(inputs)
            and existing.is_registered(server, target_of(spec), result, spec.from_model)
        )

    # --- a build ------------------------------------------------------------------

    def _build(self) -> Iterator[Row]:
        items = [taken.item for taken in self._taken.values()]
        for outcome in self._executor.run(items, self._told):
            taken = self._taken[outcome.key]
            checked = self._with_inputs(taken, outcome)
            if outcome.status == "error":
                self._clean_up(taken)
            self._finish(taken.claim, checked, taken.last)
            yield Row(taken.planned, checked)

    def _clean_up(self, taken: _Taken) -> None:
        """What a process left that was killed, for its memory say: the item may never be asked for again."""
        spec = taken.item.spec
        try:
            existing.clean_up(taken.claim.target, taken.claim.token)
            server = find_server(spec)
            if server is not None:
                with closing(server):
                    existing.clean_up_server(server, taken.claim.token)
        except GgufpackError as error:
            self._on_event(taken.item.key, Note(f"What it left could not be removed: {error}"))

    def _told(self, key: str, event: Event) -> None:
        """An event of an item: stages go into the journal."""
        taken = self._taken[key]
        if key not in self._digests:
            self._digests[key] = self._pool.submit(self._record_inputs, taken)
        if isinstance(event, StageStarted):
            self._journal.stage_started(taken.claim, event.stage.value)
        elif isinstance(event, StageFinished):
            self._journal.stage_finished(taken.claim, event.stage.value, event.seconds)
        self._on_event(key, event)

    def _record_inputs(self, taken: _Taken) -> str:
        digest = self._digest(taken.inputs)
        if taken.inputs.unchanged():
            self._journal.inputs(taken.claim, digest)
        return digest

    def _with_inputs(self, taken: _Taken, outcome: Outcome) -> Outcome:
        """The outcome; an error when the checkpoint changed while it was read."""
        future = self._digests.pop(outcome.key, None)
        if outcome.status == "error":
            if future is not None:
                future.cancel()
            return outcome
        try:
            if future is None:
                self._record_inputs(taken)
            else:
                future.result()
            if taken.inputs.unchanged():
                return outcome
            problem = f"{shown(taken.item.spec.checkpoint)} changed while it was packaged."
            raise CheckpointFileError(problem, action="Package it when the training has saved it.")
        except GgufpackError as error:
            return replace(outcome, status="error", result=None, error=error.to_json())

    def _finish(self, claim: Claim, outcome: Outcome, last: Entry | None) -> None:
        """Into the journal. After an error the package of an earlier build may still be there."""
        if outcome.result is not None:
            outputs = existing.outputs_of(outcome.result)
        else:
            outputs = {} if last is None else dict(last.outputs)
        self._journal.finish(claim, _STATES[outcome.status], asdict(outcome), outputs)

    def _digest(self, inputs: Inputs) -> str:
        if not self._trust_mtime:
            whole, digests = inputs.digest()
        else:
            whole, digests = inputs.digest(self._journal.known_digest)
        if inputs.unchanged():
            self._journal.remember_digests(digests, inputs.files)
        return whole


def _outcome(key: str, entry: Entry) -> Outcome:
    """A finished item's outcome, under the key it has in this batch."""
    assert entry.outcome is not None  # noqa: S101 - it is finished
    return Outcome(**{**entry.outcome, "key": key})
