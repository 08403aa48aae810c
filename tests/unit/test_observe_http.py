"""The little HTTP server over run statuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from penstock.errors import EnvironmentFault, UsageError
from penstock.ledger import Counts
from penstock.observe import http
from penstock.observe.http import Address, ObserveServer, not_ready, parse_address
from penstock.observe.log import Incident
from penstock.observe.metrics import render_metrics
from penstock.observe.status import Phase, RunStatus


class FixedClock:
    def now(self) -> float:
        return 1000.0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing sleeps here")


def silent(incident: Incident) -> None:
    raise AssertionError(incident)


def a_status(phase: Phase = "running") -> RunStatus:
    status = RunStatus("orders", "v1", epoch=3, phase=phase, committed_at=990.0)
    status.counts = Counts(10, 4, 3, 2, 1, 5)
    status.reread = 7
    status.sinks = Counter({"db": 4})
    status.steps = Counter({("big", "filtered"): 3})
    status.retries = Counter({"db": 2})
    status.in_flight_events, status.in_flight_bytes, status.open_letters = 6, 600, 9
    status.batch_seconds.observe(0.002)
    status.batch_seconds.observe(99.0)
    status.progress = lambda: (30, 100)
    status.stale = lambda: {"db": 1}
    return status


@pytest.fixture
async def server() -> AsyncIterator[tuple[Address, list[RunStatus]]]:
    runs = [a_status()]
    observe = ObserveServer(runs, Address("127.0.0.1", 0), FixedClock(), silent)
    async with observe as address:
        yield address, runs


async def ask(address: Address, head: str) -> tuple[int, dict[str, str], bytes]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(head.replace("\n", "\r\n").encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    top, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = top.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return int(status.split(" ")[1]), headers, body


def get(path: str, host: str = "127.0.0.1:4195", method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\nHost: {host}\n\n"


async def test_a_running_pipeline_is_alive_and_ready(server: tuple[Address, list[RunStatus]]) -> None:
    address, _ = server
    assert (await ask(address, get("/healthz")))[::2] == (200, b"ok\n")
    assert (await ask(address, get("/readyz?verbose=1")))[::2] == (200, b"ready\n")


async def test_a_pipeline_that_waits_is_alive_and_not_ready_with_its_reason(server: tuple[Address, list[RunStatus]]) -> None:
    address, runs = server
    runs[0].wait("sink", "the disk is full")
    assert (await ask(address, get("/healthz")))[0] == 200
    assert (await ask(address, get("/readyz")))[::2] == (503, b"orders: the disk is full\n")


def test_readiness_counts_failures_health_and_only_runs_that_have_not_ended_well() -> None:
    well, failed, ailing = a_status("stopped"), a_status("failed"), a_status()
    ailing.health = lambda: {"db": "slow\n"}
    paused, stuck = a_status(), a_status()
    paused.paused = stuck.paused = "paused since then by ann@here"
    stuck.wait("sink", "the disk is full")
    assert not_ready([a_status()]) == []
    assert not_ready([a_status(), well]) == []
    assert not_ready([well]) == ["orders: stopped"]
    assert not_ready([failed, a_status()]) == ["orders: failed"]
    assert not_ready([ailing]) == ["orders: db: slow\\n"]
    assert not_ready([paused]) == ["orders: paused since then by ann@here"]
    assert not_ready([stuck]) == ["orders: the disk is full; paused since then by ann@here"]
    assert not_ready([]) == ["no pipeline is running"]


async def test_metrics_are_scraped_and_complete(server: tuple[Address, list[RunStatus]]) -> None:
    address, _ = server
    status, headers, body = await ask(address, get("/metrics"))
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    samples = {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "pipeline")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    assert samples == {
        ("penstock_events_total", "delivered"): 4,
        ("penstock_events_total", "filtered"): 3,
        ("penstock_events_total", "deduplicated"): 2,
        ("penstock_events_total", "dead_lettered"): 1,
        ("penstock_events_derived_total",): 5,
        ("penstock_events_reread_total",): 7,
        ("penstock_step_events_total", "filtered", "big"): 3,
        ("penstock_sink_events_total", "db"): 4,
        ("penstock_sink_stale_events_total", "db"): 1,
        ("penstock_retries_total", "db"): 2,
        ("penstock_batch_duration_seconds_count",): 2,
        ("penstock_batch_duration_seconds_sum",): 99.002,
        ("penstock_commit_duration_seconds_count",): 0,
        ("penstock_commit_duration_seconds_sum",): 0,
        ("penstock_in_flight_events",): 6,
        ("penstock_in_flight_bytes",): 600,
        ("penstock_dead_letters_open",): 9,
        ("penstock_dead_letters_parked",): 0,
        ("penstock_lanes_parked",): 0,
        ("penstock_dead_letters_alarm",): 0,
        ("penstock_ready",): 1,
        ("penstock_paused",): 0,
        ("penstock_checkpoint_age_seconds",): 10,
        ("penstock_run_info", "running", "v1"): 1,
        ("penstock_source_lag_bytes",): 70,
    }


def test_histogram_buckets_are_cumulative() -> None:
    page = render_metrics([a_status()], FixedClock()).decode()
    assert 'penstock_batch_duration_seconds_bucket{le="0.001",pipeline="orders"} 0.0' in page
    assert 'penstock_batch_duration_seconds_bucket{le="0.0025",pipeline="orders"} 1.0' in page
    assert 'penstock_batch_duration_seconds_bucket{le="30.0",pipeline="orders"} 1.0' in page
    assert 'penstock_batch_duration_seconds_bucket{le="+Inf",pipeline="orders"} 2.0' in page


def test_a_paused_run_is_measured_as_paused_and_not_ready() -> None:
    status = a_status()
    status.paused = "paused since then by ann@here"
    page = render_metrics([status], FixedClock()).decode()
    assert 'penstock_paused{pipeline="orders"} 1.0' in page
    assert 'penstock_ready{pipeline="orders"} 0.0' in page


def test_what_is_not_known_yet_has_no_sample() -> None:
    page = render_metrics([RunStatus("orders", "v1")], FixedClock()).decode()
    assert "penstock_checkpoint_age_seconds{" not in page
    assert "penstock_source_lag_bytes{" not in page
    assert 'penstock_ready{pipeline="orders"} 0.0' in page


async def test_head_gets_the_headers_alone(server: tuple[Address, list[RunStatus]]) -> None:
    status, headers, body = await ask(server[0], get("/healthz", method="HEAD"))
    assert (status, headers["Content-Length"], body) == (200, "3", b"")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4195", "127.0.0.1.evil.example", "", "192.168.0.7"])
async def test_a_name_that_was_rebound_to_this_machine_reads_nothing(server: tuple[Address, list[RunStatus]], host: str) -> None:
    status, _, body = await ask(server[0], get("/metrics", host))
    assert (status, body) == (421, b"the Host header does not name this machine\n")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.2:4195", "[::1]", "[::1]:4195"])
async def test_every_name_of_the_loopback_is_served(server: tuple[Address, list[RunStatus]], host: str) -> None:
    assert (await ask(server[0], get("/healthz", host)))[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /healthz HTTP/1.1\n\n", 421),
        ("GET /healthz HTTP/1.1\nHost: localhost\nHost: localhost\n\n", 421),
        ("POST /healthz HTTP/1.1\nHost: localhost\n\n", 405),
        ("GET /nowhere HTTP/1.1\nHost: localhost\n\n", 404),
        ("rubbish\n\n", 400),
        ("GET /healthz HTTP/1.1\nHost: localhost\nX: " + "x" * 9000 + "\n\n", 431),
    ],
)
async def test_anything_else_is_refused(server: tuple[Address, list[RunStatus]], head: str, status: int) -> None:
    assert (await ask(server[0], head))[0] == status


async def test_a_request_that_never_ends_is_ended(
    server: tuple[Address, list[RunStatus]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.05)
    assert (await ask(server[0], "GET /healthz HTTP/1.1\nHost: "))[0] == 408


async def test_a_page_that_cannot_be_made_fails_its_request_and_is_logged() -> None:
    said: list[Incident] = []
    broken = a_status()
    broken.health = lambda: 1 / 0  # type: ignore[assignment,return-value]  # a component that fails to say how it is
    async with ObserveServer([broken], Address("127.0.0.1", 0), FixedClock(), said.append) as address:
        answers = [await ask(address, f"GET /{page} HTTP/1.1\nHost: localhost\n\n") for page in ("readyz", "healthz", "metrics")]
    assert [(status, body) for status, _, body in answers[:2]] == [(500, b"Internal Server Error\n"), (200, b"ok\n")]
    assert answers[2][0] == 500
    assert [(one.level, one.code, one.message) for one in said] == [
        ("error", "http.failed", "a page cannot be made: ZeroDivisionError: division by zero")
    ] * 2


async def test_closing_ends_open_connections() -> None:
    observe = ObserveServer([a_status()], Address("127.0.0.1", 0), FixedClock(), silent)
    address = await observe.start()
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"GET ")
    await writer.drain()
    await observe.close()
    with contextlib.suppress(ConnectionResetError):  # instead of an orderly end, where the request had not been read yet
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(address.host, address.port)


async def test_a_port_in_use_is_the_environments_fault(server: tuple[Address, list[RunStatus]]) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await ObserveServer([], server[0], FixedClock(), silent).start()
    assert (caught.value.code, caught.value.message) == ("http.cannot_listen", f"cannot listen on {server[0]}")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:4195", Address("127.0.0.1", 4195)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:80", Address("::1", 80)),
    ],
)
def test_loopback_addresses_are_accepted(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("4195", "http.bad_address"),
        (":4195", "http.bad_address"),
        ("127.0.0.1:http", "http.bad_address"),
        ("127.0.0.1:70000", "http.bad_address"),
        ("0.0.0.0:4195", "http.not_loopback"),
        ("[::]:4195", "http.not_loopback"),
        ("shop.example:4195", "http.not_loopback"),
    ],
)
def test_other_addresses_are_usage_errors(text: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.code == code


def test_what_a_source_measures_is_a_gauge_of_its_own() -> None:
    status = a_status()
    status.gauges = lambda: {"slot_lag_bytes": 4096.0}
    page = render_metrics([status], FixedClock()).decode()
    samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
    assert [(s.name, s.labels, s.value) for s in samples if "slot" in s.name] == [
        ("penstock_source_slot_lag_bytes", {"pipeline": "orders"}, 4096.0)
    ]
