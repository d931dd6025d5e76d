"""``PackageCallback``: packages each save of a transformers ``Trainer``, while the training goes on.

    from ggufpack.integrations.transformers import PackageCallback

    trainer = Trainer(…, callbacks=[PackageCallback(quantization="Q4_K_M", output="packages")])

Works with every trainer that is built on ``Trainer``: TRL's, LLaMA-Factory's. docs/training.md has examples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ggufpack.batch.items import Outcome
from ggufpack.errors import CheckpointLayoutError, GgufpackError
from ggufpack.integrations.background import BackgroundPackager, checked_pattern
from ggufpack.integrations.snapshots import new_snapshot, remove_stale
from ggufpack.integrations.tasks import WhenBusy
from ggufpack.registry.names import suggested


class PackageCallback(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Packages each save, in the background, in a process of its own.

    The training's random states and GPU memory are not touched: the training's process only links
    files. Only rank 0 packages. What cannot be packaged is logged as an error and is an outcome in
    ``results``; the training goes on.

    Args:
        name: pattern of the names; ``{run}`` is the name of the output folder, ``{step}`` the step.
        final: package the model at the end of the training too, with "final" as its step. With
            ``load_best_model_at_end`` that is the best one.
        tokenizer: for a ``Trainer`` that has no ``processing_class``: the tokenizer, or a folder.
        base: folder of the base model, for adapters whose configuration does not lead to it.
        when_busy: what happens to a save that comes while another one is packaged: ``"queue"`` (up to
            ``max_waiting`` wait, then the oldest of them is given up), ``"latest"`` (only the newest
            waits), or ``"wait"`` (the training waits; the other ranks of a distributed training may
            then time out). A save that waits keeps its files on disk when the trainer deletes it.
        max_waiting: of ``"queue"``.
        wait: wait at the end of the training for what still runs. Without it, call ``wait()``:
            a package that is not done when the interpreter ends is given up.
        strict: raise at the end of the training if a save did not become a sound package.
        options: of ``ggufpack.build``; ``register``, ``verify`` and ``threads`` have other defaults
            (``BackgroundPackager``).

    Raises:
        UsageError: an option or a value that cannot be meant.
    """

    def __init__(
        self,
        *,
        name: str = "{run}-{step}",
        final: bool = False,
        tokenizer: Any = None,
        base: str | os.PathLike[str] | None = None,
        when_busy: WhenBusy = "queue",
        max_waiting: int = 4,
        wait: bool = True,
        strict: bool = False,
        **options: Any,
    ) -> None:
        self._name = checked_pattern(name)
        self._final = final
        self._tokenizer = tokenizer
        self._base = None if base is None else Path(base)
        self._waits = wait
        self._strict = strict
        self._packager = BackgroundPackager(options, when_busy=when_busy, max_waiting=max_waiting)

    @property
    def results(self) -> Sequence[Outcome]:
        """How each save ended, so far; ``key`` is the package's name."""
        return tuple(self._packager.outcomes)

    def wait(self) -> None:
        """Wait for what is being packaged.

        Raises:
            GgufpackError: with ``strict``: a save did not become a sound package.
        """
        self._packager.wait()
        bad = [outcome for outcome in self.results if outcome.error is not None]
        if self._strict and bad:
            assert bad[0].error is not None  # noqa: S101 - just chosen so
            raise GgufpackError(
                f"{len(bad)} of {len(self.results)} saves were not packaged as trained; the first is"
                f" {bad[0].key}: {bad[0].error['problem']}",
                action=str(bad[0].error["action"] or ""),
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **_parts: Any) -> None:  # noqa: ARG002
        """Remove what a training that was killed left in the output folder."""
        if state.is_world_process_zero:
            remove_stale(Path(args.output_dir))

    def on_save(self, args: Any, state: Any, control: Any, **_parts: Any) -> None:  # noqa: ARG002
        """Hand the save in."""
        if state.is_world_process_zero:
            run = Path(args.output_dir)
            self._packager.package(
                run.absolute() / f"checkpoint-{state.global_step}",
                self._named(run, state.global_step),
                base=self._base,
                tokenizer=self._tokenizer,
            )

    def on_train_end(
        self,
        args: Any,
        state: Any,
        control: Any,  # noqa: ARG002 - the interface's
        model: Any = None,
        processing_class: Any = None,
        **_parts: Any,
    ) -> None:
        """Hand the final model in, and wait."""
        if state.is_world_process_zero:
            if self._final:
                self._package_final(Path(args.output_dir), model, processing_class)
            if self._waits:
                self.wait()

    def _package_final(self, run: Path, model: Any, tokenizer: Any) -> None:
        name = self._named(run, "final")
        if _is_sharded():
            self._packager.refuse(
                name,
                CheckpointLayoutError(
                    f"{name} is not packaged: each process has a shard of the model only.",
                    action="Call trainer.save_model(), then ggufpack.build on its folder.",
                ),
            )
            return
        run.mkdir(parents=True, exist_ok=True)
        snapshot = new_snapshot(run.absolute(), run.absolute().name)
        model.save_pretrained(snapshot.folder)
        self._packager.package_snapshot(
            snapshot, name, base=self._base, tokenizer=self._tokenizer if tokenizer is None else tokenizer
        )

    def _named(self, run: Path, step: int | str) -> str:
        return self._name.format(run=suggested(run.absolute().name), step=step)


def _is_sharded() -> bool:
    """Whether the training keeps its model in shards (FSDP, DeepSpeed ZeRO 3)."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    # TrainingArguments and accelerate's launcher both say it there
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" or is_deepspeed_zero3_enabled()
