"""The engine's worker process: `python -m DiffPoseSlicerLib.engine.worker`, started by a client.

A thread reads requests from stdin, the main thread computes, answers go to stdout. Everything else that prints to
stdout, C libraries included, lands on stderr instead. The end of stdin (the client is gone) ends the worker.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
import time
import traceback
from typing import IO, TYPE_CHECKING

from ..errors import Cancelled, InputError
from .launch import POLITE
from .protocol import Error, Progress, ProtocolError, Reply, Request, Result, decode_request, encode

if TYPE_CHECKING:
    from .methods import Engine

# What is computing when the client goes away gets this long to notice.
_SECONDS_TO_END = 10.0


def claim_streams() -> tuple[IO[bytes], IO[bytes]]:
    """Take stdin and stdout for the protocol alone: what others print goes to stderr, what others read is empty."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, replies


def lower_priority() -> None:
    """Let other programs go first where there are too few cores: above all the one that shows what is computed."""
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        kernel.SetPriorityClass(kernel.GetCurrentProcess(), 0x4000)  # BELOW_NORMAL_PRIORITY_CLASS
    else:
        os.nice(5)


class Inbox:
    """Requests as they come, read in a thread so that a cancellation is seen while the main thread computes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._queue: queue.SimpleQueue[Request | ProtocolError | None] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._closed = False
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: IO[bytes]) -> None:
        try:
            for line in stream:
                try:
                    request = decode_request(line)
                except ProtocolError as error:
                    self._queue.put(error)
                    continue
                if request.method == "cancel":
                    self._cancelled.add(request.params.get("id", -1))
                self._queue.put(request)
        finally:
            self._closed = True
            self._queue.put(None)
            time.sleep(_SECONDS_TO_END)
            os._exit(1)

    def next(self) -> Request | ProtocolError | None:
        """The next request, waiting for it; None when there will be no more."""
        return self._queue.get()

    def is_cancelled(self, id: int) -> bool:
        """Whether the client no longer wants the answer to a request."""
        return self._closed or id in self._cancelled

    def forget(self, id: int) -> None:
        """A cancellation has been answered."""
        self._cancelled.discard(id)


class ClientGone(Exception):
    """Nobody reads the replies any more."""


class Sender:
    """Writes replies."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def __call__(self, reply: Reply) -> None:
        try:
            self._stream.write(encode(reply))
            self._stream.flush()
        except (OSError, ValueError):
            raise ClientGone from None


def answer(engine: Engine, request: Request, inbox: Inbox, send: Sender) -> Reply:
    """Do what a request asks for; whatever goes wrong becomes an error reply."""
    try:
        if inbox.is_cancelled(request.id):
            raise Cancelled
        result = engine.handle(
            request.method,
            request.params,
            on_progress=lambda data: send(Progress(request.id, data)),
            cancel=lambda: inbox.is_cancelled(request.id),
        )
        reply = Result(request.id, result)
        encode(reply)  # a result that is no message is a defect to be answered, too
        return reply
    except InputError as error:
        return Error(request.id, "input", str(error))
    except Cancelled:
        return Error(request.id, "cancelled", "Stopped as asked.")
    except MemoryError:
        traceback.print_exc()
        return Error(request.id, "defect", "There is not enough memory for this.")
    except ClientGone:
        raise
    except Exception as error:
        traceback.print_exc()
        message = f"Defect in {request.method}: {type(error).__name__}: {error}"
        return Error(request.id, "defect", message, traceback.format_exc())


def main() -> int:
    """Serve until stdin ends or "shutdown" comes."""
    if os.environ.get(POLITE):
        lower_priority()
    requests, replies = claim_streams()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client, which cancels
    from .methods import Engine

    engine, inbox, send = Engine(), Inbox(requests), Sender(replies)
    try:
        while (request := inbox.next()) is not None:
            if isinstance(request, ProtocolError):
                send(Error(request.id, "input", str(request)))
                continue
            if request.method == "cancel":
                inbox.forget(request.params.get("id", -1))
            send(answer(engine, request, inbox, send))
            if request.method == "shutdown":
                break
    except ClientGone:
        pass
    finally:
        engine.close()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    # Not sys.exit: threads of libraries must not hold a finished worker back.
    os._exit(main())
