"""What authors of connectors test with.

`FakeClock` stands in for the clock of a component; `penstock.testing.crash` is the crash harness (`run_rounds` with a `Scenario`
of your own sink, from `penstock.testing.scenario`); fault points are in `penstock.faults`.
"""

from penstock.testing.clock import FakeClock

__all__ = ["FakeClock"]
