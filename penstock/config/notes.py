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


def notes(form: PipelineFile, source: typed.Component, steps: Sequence[typed.Step]) -> list[str]:
    """A line each."""
    return [*_dedup(form, source), *_unenforced(form, steps), *_step_timeouts(steps)]


def _dedup(form: PipelineFile, source: typed.Component) -> Iterator[str]:
    if form.dedup is not None and form.dedup.key is not None and source.kind.endswith("_cdc"):
        yield "dedup.key over changes of rows: a key names one change, not one entity, or an order's second update is dropped"


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
