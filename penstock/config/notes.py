"""What is worth knowing of a pipeline though nothing is wrong with it: `pipe lint` shows it as warnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from penstock.builtins import TRANSFORMS
from penstock.config import model as typed
from penstock.config.format import PipelineFile
from penstock.config.units import format_duration

_BOUNDED = frozenset({"redact", "validate"})
"""Transforms of ours whose work is bounded by the size of their event; all others run a program."""

_AWAITING = frozenset({"python"})
"""Transforms of ours that may wait for something, and can be interrupted there."""


def notes(
    form: PipelineFile, source: typed.Component, steps: Sequence[typed.Step], event: typed.EventFields | None = None
) -> list[str]:
    """A line each."""
    lanes = _laneless(form, event or typed.EventFields())
    return [*_dedup(form, source), *lanes, *_unenforced(form, steps), *_step_timeouts(steps), *_keyless(steps)]


def _dedup(form: PipelineFile, source: typed.Component) -> Iterator[str]:
    if form.dedup is not None and form.dedup.key is not None and source.kind.endswith("_cdc"):
        yield "dedup.key over changes of rows: a key names one change, not one entity, or an order's second update is dropped"


def _laneless(form: PipelineFile, event: typed.EventFields) -> Iterator[str]:
    if form.dead_letter.lane == "park" and event.partition_key is None:
        yield (
            "`lane: park` without `event.partition_key`: an event that brings no `partitionkey` of its own is in no lane, and "
            "ends the run when it fails, as with `lane: stop`"
        )


def _unenforced(form: PipelineFile, steps: Sequence[typed.Step]) -> Iterator[str]:
    unsafe = [step.name for step in steps if step.component.kind not in _BOUNDED]
    if form.workers == 0 and "transform_timeout" in form.model_fields_set and unsafe:
        limit = format_duration(form.transform_timeout)
        yield (
            f"transform_timeout: {limit} is reported, not enforced, with `workers: 0`. "
            f"Safe only in workers (`workers: 1`): {', '.join(unsafe)}"
        )


def _step_timeouts(steps: Sequence[typed.Step]) -> Iterator[str]:
    for step in steps:
        kind = step.component.kind
        if step.timeout is not None and kind in TRANSFORMS and kind not in _AWAITING:
            yield (
                f"the timeout of step {step.name} has no effect: `{kind}` never waits; "
                "transform_timeout with `workers: 1` bounds its computing"
            )


def _keyless(steps: Sequence[typed.Step]) -> Iterator[str]:
    for step in steps:
        if step.effects == "write" and step.idempotency_key is None:
            yield (
                f"step {step.name} has `effects: write` and no `idempotency_key`: "
                "after a crash it changes the world again for the events that were not committed"
            )
