"""What authors of connectors test with.

`FakeClock` stands in for the clock of a component; `penstock.testing.crash` is the crash harness (`run_rounds` with a `Scenario`
of your own sink, from `penstock.testing.scenario`); fault points are in `penstock.faults`. `penstock.testing.servers` runs real
PostgreSQL servers (extra `penstock[demo]`), `penstock.testing.proxy` stands between one and its clients.
"""

from penstock.testing.clock import FakeClock

__all__ = ["FakeClock"]
