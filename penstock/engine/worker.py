"""A worker process: reads its duty and then blocks from stdin, writes replies to stdout, and knows nothing else.

It has an empty environment, no open files but its pipes, and a limit on its address space. It is ended by its parent, at any
moment; it ends by itself when its parent does. Beside its replies it says which step it is at, for the day it does not come back.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import pickle
import random
import resource
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

from penstock.builtins import room
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.assemble import Moment, Surroundings, make_context
from penstock.engine.chain import Chain, compile_chain
from penstock.engine.garbage import collect_less
from penstock.engine.prepare import Preparer
from penstock.engine.tally import Tally
from penstock.engine.wire import (
    ANSWER,
    FRAME,
    LENGTH,
    STEP,
    WAITING,
    WORKING,
    Reply,
    Request,
    WireError,
    decode_request,
    encode_reply,
)
from penstock.errors import ComponentError, Fatal
from penstock.faults import Faults

PIPE_BYTES = 1 << 20
"""What Linux lets any user ask for by default (/proc/sys/fs/pipe-max-size)."""
OUT_OF_MEMORY = 71
"""Exit status of a worker whose steps needed more than `worker_memory` (EX_OSERR of sysexits.h)."""


Serve = Callable[[bytes], Coroutine[Any, Any, bytes]]
"""What makes the reply of a block."""


class Duty(Protocol):
    """What a worker is there for: the parent sends it first.

    :ivar memory: bytes it may take beyond what it has when it begins.
    """

    memory: int

    def begin(self, talk: Talk) -> Serve:
        """Everything that is done once."""
        ...


@dataclass(frozen=True, slots=True)
class Talk:
    """What the worker says to its parent."""

    stream: BinaryIO

    def say(self, kind: bytes, body: bytes = b"") -> None:
        self.stream.write(FRAME.pack(kind, len(body)) + body)
        self.stream.flush()

    def enter(self, step: str) -> None:
        """A step begins."""
        self.say(STEP, step.encode())


@dataclass(slots=True)
class StepsDuty:
    """The steps of a pipeline, over blocks of events (`Request`, `Reply`)."""

    pipeline: Pipeline
    memory: int

    def begin(self, talk: Talk) -> Serve:
        moment = Moment()
        expressions = room("expressions")(moment)
        surroundings = Surroundings(AnnouncedSleep(talk), random.Random(), Faults())
        pipeline = self.pipeline
        chain = compile_chain(pipeline.steps, pipeline, lambda name: make_context(pipeline, name, expressions, surroundings))
        chain.entering = talk.enter
        preparer = Preparer.compile(pipeline.event, expressions)

        async def serve(block: bytes) -> bytes:
            return encode_reply(await _run(decode_request(block), chain, preparer, moment))

        return serve


class AnnouncedSleep(SystemClock):
    """A clock whose sleeps the parent knows of: they do not count against `transform_timeout`."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    async def sleep(self, seconds: float) -> None:
        self._talk.say(WAITING)
        await asyncio.sleep(seconds)
        self._talk.say(WORKING)


def main() -> None:
    """Serve blocks until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to act on
    _widen(0, 1)
    stdin, talk = os.fdopen(os.dup(0), "rb"), Talk(os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a step that reads stdin must not eat the frames
    os.dup2(2, 1)  # what a step prints goes to stderr, never between the frames
    first = read_frame(stdin)
    if first is None:
        return
    duty: Duty = pickle.loads(first)  # noqa: S301  # from the parent alone: the pipe is its own
    serve = duty.begin(talk)
    collect_less()
    _limit_memory(duty.memory)
    talk.say(ANSWER)
    with asyncio.Runner() as runner:
        while (frame := read_frame(stdin)) is not None:
            try:
                reply = runner.run(serve(frame))
            except MemoryError:  # nothing that needs memory can be done any more
                os._exit(OUT_OF_MEMORY)
            talk.say(ANSWER, reply)


async def _run(request: Request, chain: Chain, preparer: Preparer, moment: Moment) -> Reply:
    tally = Tally()
    moment.at = request.now
    try:
        if request.prepare:
            chain.entering("event")
        events = preparer.prepare(request.events, tally, {}) if request.prepare else request.events
        outputs, routes = await chain.run(events, tally)
        return Reply.of(outputs, routes, tally)
    except ComponentError as error:
        return Reply([], None, [], [], 0, WireError.of(error))
    except MemoryError:
        raise
    except Exception as error:  # supervision point: a bug in a step stops the run with a reason
        return Reply([], None, [], [], 0, WireError.of(Fatal("internal.error", f"{type(error).__name__}: {error}")))


def _widen(*pipes: int) -> None:
    """Room for a whole block in each pipe, so that neither side wakes up for a part of one (pipe(7), "Pipe capacity")."""
    for pipe in pipes:
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except PermissionError:  # the system allows this user no more: slower, and right all the same
            return


def _limit_memory(limit: int) -> None:
    """`worker_memory` is what the steps may take beyond what the interpreter and the compiled programs occupy already."""
    with open("/proc/self/statm") as statm:  # noqa: PTH123  # a kernel file, read once
        pages = int(statm.read().split()[0])
    size = pages * resource.getpagesize() + limit
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame, or None where the parent has gone."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    return stream.read(length)


if __name__ == "__main__":
    main()
