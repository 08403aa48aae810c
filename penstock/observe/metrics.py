"""Prometheus metrics, read from the `RunStatus` of each run when somebody asks: counting costs the hot path nothing.

Base units, names `penstock_*`, counters since this process began. Labels hold names from pipeline files only, never data of
events, so their number is bounded.

Source: the Prometheus text exposition format, version 0.0.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from penstock.clock import Clock
from penstock.observe.status import LATENCY_BUCKETS, Histogram, JournalSize, RunStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("delivered", "filtered", "deduplicated", "dead_lettered")


class RunCollector(Collector):
    """Makes metrics of some runs."""

    def __init__(self, runs: Sequence[RunStatus], clock: Clock) -> None:
        self._runs = runs
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        yield from self._events()
        yield from self._latencies()
        yield from self._state()
        yield from self._journal()
        yield from self._source()

    def _events(self) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            "penstock_events", "Events with a durable outcome; their sum is the events received.", labels=["pipeline", "outcome"]
        )
        derived = CounterMetricFamily(
            "penstock_events_derived", "Events that transforms made beyond one for one.", labels=["pipeline"]
        )
        reread = CounterMetricFamily(
            "penstock_events_reread", "Events read again that every ledger already held.", labels=["pipeline"]
        )
        steps = CounterMetricFamily(
            "penstock_step_events", "Events that a step filtered, failed or skipped.", labels=["pipeline", "step", "outcome"]
        )
        sinks = CounterMetricFamily("penstock_sink_events", "Events written by a sink.", labels=["pipeline", "sink"])
        stale = CounterMetricFamily(
            "penstock_sink_stale_events",
            "Events written that changed nothing, being older than what is there (order_by).",
            labels=["pipeline", "sink"],
        )
        jobs = CounterMetricFamily(
            "penstock_job_events", "Events of jobs with a durable outcome, counted apart.", labels=["pipeline", "kind", "outcome"]
        )
        retries = CounterMetricFamily("penstock_retries", "Attempts after the first.", labels=["pipeline", "component"])
        for run in self._runs:
            for outcome in OUTCOMES:
                outcomes.add_metric([run.pipeline, outcome], getattr(run.counts, outcome))
            derived.add_metric([run.pipeline], run.counts.derived)
            reread.add_metric([run.pipeline], run.reread)
            for (step, outcome), count in sorted(run.steps.items()):
                steps.add_metric([run.pipeline, step, outcome], count)
            for sink, count in sorted(run.sinks.items()):
                sinks.add_metric([run.pipeline, sink], count)
            for sink, count in sorted(run.stale().items()):
                stale.add_metric([run.pipeline, sink], count)
            for (kind, outcome), count in sorted(run.job_events.items()):
                jobs.add_metric([run.pipeline, kind, outcome], count)
            for component, count in sorted(run.retries.items()):
                retries.add_metric([run.pipeline, component], count)
        yield from (outcomes, derived, reread, steps, sinks, stale, jobs, retries)

    def _latencies(self) -> Iterator[Metric]:
        batches = HistogramMetricFamily(
            "penstock_batch_duration_seconds", "From a batch's reading to its commit.", labels=["pipeline"]
        )
        commits = HistogramMetricFamily("penstock_commit_duration_seconds", "A group's commit alone.", labels=["pipeline"])
        for run in self._runs:
            batches.add_metric([run.pipeline], _buckets(run.batch_seconds), run.batch_seconds.total)
            commits.add_metric([run.pipeline], _buckets(run.commit_seconds), run.commit_seconds.total)
        yield from (batches, commits)

    def _state(self) -> Iterator[Metric]:
        yield self._gauge("penstock_in_flight_events", "Events read and not yet committed.", lambda run: run.in_flight_events)
        yield self._gauge("penstock_in_flight_bytes", "Bytes read and not yet committed.", lambda run: run.in_flight_bytes)
        yield self._gauge("penstock_dead_letters_open", "Dead letters open, as of the last commit.", lambda run: run.open_letters)
        parked = "Of these, parked behind another in their lane; within seconds."
        yield self._gauge("penstock_dead_letters_parked", parked, lambda run: run.parked)
        yield self._gauge("penstock_lanes_parked", "Lanes that a dead letter holds; within seconds.", lambda run: run.lanes)
        alarm = "1 while as many dead letters are open as dead_letter.alert_threshold says, else 0."
        yield self._gauge("penstock_dead_letters_alarm", alarm, lambda run: run.alarmed)
        yield self._gauge("penstock_ready", "1 while events can flow, else 0.", lambda run: run.ready)
        yield self._gauge("penstock_paused", "1 while the pipeline is paused, else 0.", lambda run: run.paused is not None)
        yield self._gauge(
            "penstock_checkpoint_age_seconds",
            "Since the last commit; absent before the first.",
            lambda run: max(0.0, self._clock.now() - run.committed_at) if run.committed_at else None,
        )
        info = GaugeMetricFamily(
            "penstock_run_info", "1 for each run, with its pipeline version.", labels=["pipeline", "version", "phase"]
        )
        for run in self._runs:
            info.add_metric([run.pipeline, run.version, run.phase], 1)
        yield info

    def _journal(self) -> Iterator[Metric]:
        """As of the last look, within a minute; absent where none is kept."""

        def gauge(name: str, documentation: str, value: Callable[[JournalSize], float | None]) -> Metric:
            return self._gauge(f"penstock_journal_{name}", documentation, lambda run: value(run.journal) if run.journal else None)

        yield gauge("size_bytes", "Bytes of the journal on its disk, sidecars included.", lambda journal: journal.size)
        yield gauge("segments", "Segments of the journal.", lambda journal: journal.segments)
        yield gauge("free_bytes", "Bytes free on the journal's disk.", lambda journal: journal.free)
        yield gauge(
            "age_seconds",
            "Since the journal's oldest event was received; absent while it is empty.",
            lambda journal: max(0.0, self._clock.now() - journal.first) if journal.first is not None else None,
        )

    def _source(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily("penstock_source_lag_bytes", "What the source has and has not yet read.", labels=["pipeline"])
        unhealthy = GaugeMetricFamily(
            "penstock_component_unhealthy", "1 for each component that says something is wrong.", labels=["pipeline", "component"]
        )
        for run in self._runs:
            if (progress := run.progress()) is not None:
                lag.add_metric([run.pipeline], max(0, progress[1] - progress[0]))
            for component in run.health():
                unhealthy.add_metric([run.pipeline, component], 1)
        yield from (lag, unhealthy)
        yield from self._gauges()

    def _gauges(self) -> Iterator[Metric]:
        """What sources measure themselves: `penstock_source_` and the name."""
        families: dict[str, GaugeMetricFamily] = {}
        for run in self._runs:
            for name, value in run.gauges().items():
                if name not in families:
                    families[name] = GaugeMetricFamily(f"penstock_source_{name}", "Measured by the source.", labels=["pipeline"])
                families[name].add_metric([run.pipeline], value)
        yield from families.values()

    def _gauge(self, name: str, documentation: str, value: Callable[[RunStatus], float | None]) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=["pipeline"])
        for run in self._runs:
            if (number := value(run)) is not None:
                family.add_metric([run.pipeline], float(number))
        return family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, LATENCY_BUCKETS), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.buckets)), strict=True))


def render_metrics(runs: Sequence[RunStatus], clock: Clock) -> bytes:
    """The page that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RunCollector(runs, clock))
    return generate_latest(registry)
