"""The engine as its users see it: requests that never block, or calls that do. Imports neither torch nor warp.

    client = EngineClient()
    ct = client.call("load_ct", {"path": "ct.nii.gz"})["ct"]
    client.submit("render", {"ct": ct, "carm": ..., "pose": ...}, on_result=show)     # returns at once
    client.poll()                                                                     # calls show() when it is there

numpy arrays in `params` travel as files and come back as arrays in results. Matrices belong in lists (`tolist()`).
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import __version__
from ..errors import Cancelled, InputError
from .arrays import FOLDER_PREFIX, ArrayFolder
from .protocol import VERSION, Error, Progress, ProtocolError, Request, decode_reply, encode
from .transport import SubprocessTransport, Transport

# Requests whose result names what they loaded, under this key; later requests refer to it by the same key.
_LOADS = {"load_ct": "ct", "load_model": "model"}
# Requests that read files: a native decoder may take the worker down with one of them.
_READS = (*_LOADS, "doctor", "read_geometry", "register")
# How much of the worker's stderr is kept for a message about its end.
_TAIL = 8000


class EngineError(RuntimeError):
    """The engine failed on a request through no fault of the input. `details`: where, or the last lines it logged."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class EngineStopped(EngineError):
    """The worker process ended or could not be started; the next request starts it again.

    `status`: its exit status, negative for the signal that ended it; None where it could not be started.
    """

    def __init__(self, message: str, details: str = "", status: int | None = None) -> None:
        super().__init__(message, details)
        self.status = status


@dataclass
class _Pending:
    method: str
    params: dict[str, Any]
    on_progress: Callable[[dict[str, Any]], None] | None = None
    on_result: Callable[[dict[str, Any]], None] | None = None
    on_error: Callable[[Exception], None] | None = None
    files: list[dict[str, str]] = field(default_factory=list)


class EngineClient:
    """Talks to one worker process, started on first need and again after it died.

    What was loaded into a worker ("load_ct", "load_model") is remembered and loaded again, unasked, into the next one
    or after the worker let go of it, when a request needs it. One thread only; callbacks run inside :meth:`poll`,
    :meth:`submit` or :meth:`call`.
    """

    def __init__(self, transport: Transport | None = None) -> None:
        self._transport: Transport = transport or SubprocessTransport()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._arrays: ArrayFolder | None = None
        self._running = False
        self._pending: dict[int, _Pending] = {}
        self._next_id = 1
        self._buffer = b""
        self._lines: deque[bytes] = deque()
        self._calls: deque[Callable[[], None]] = deque()
        self._stderr = b""
        self._start_failure = ""
        # load requests by the key their result gave, and the keys this worker holds
        self._loads: dict[str, tuple[str, dict[str, Any]]] = {}
        self._held: set[str] = set()

    @property
    def arrays(self) -> ArrayFolder:
        """The folder arrays travel in; made on first use."""
        if self._arrays is None:
            self._folder = tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True)
            self._arrays = ArrayFolder(self._folder.name, "c")
        return self._arrays

    @property
    def busy(self) -> bool:
        """Whether answers are outstanding."""
        return bool(self._pending)

    @property
    def log_tail(self) -> str:
        """The last lines the worker logged."""
        return self._stderr.decode("utf-8", "replace")

    def submit(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        on_result: Callable[[dict[str, Any]], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> int:
        """Send a request and return its id at once. Exactly one of on_result, on_error is called, during a later poll.

        Errors come as InputError, Cancelled, EngineStopped or EngineError.
        """
        files: list[dict[str, str]] = []
        packed = self.arrays.pack(_absolute(params or {}), files)
        if method in _LOADS:
            files = []  # kept, to load them again
        pending = _Pending(method, packed, on_progress, on_result, on_error, files)
        self._ensure_running()
        self._ensure_loaded(packed)
        return self._send(pending)

    def cancel(self, id: int) -> None:
        """Ask for the end of a request; its on_error then gets Cancelled, or on_result where it was done already."""
        if id in self._pending:
            self._send(_Pending("cancel", {"id": id}))

    def poll(self) -> bool:
        """Take in what the worker sent and call the callbacks. Never blocks. Whether answers are still outstanding.

        An exception of a callback passes through; nothing is lost by it.
        """
        self._take()
        if self._running:
            status = self._transport.exit_status()
            if status is not None:
                self._take()  # what it said last
                self._ended(self._why(status), None if self._failure else status)
        while self._calls:
            self._calls.popleft()()
        return self.busy

    def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Send a request and wait for its result.

        An exception of `on_progress`, or Ctrl-C, cancels the request and passes through.

        Raises:
            InputError, Cancelled, EngineStopped, EngineError.
        """
        outcome: list[dict[str, Any] | Exception] = []
        id = self.submit(method, params, on_progress=on_progress, on_result=outcome.append, on_error=outcome.append)
        try:
            self.poll()
            while not outcome:
                self._transport.wait(0.1)
                self.poll()
        except BaseException:
            self.cancel(id)
            if id in self._pending:
                self._pending[id].on_progress = None  # nobody listens any more
            raise
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def close(self, grace: float = 2.0) -> None:
        """End the worker and delete the folder. Outstanding requests get Cancelled. May be used again afterwards."""
        if self._running:
            self._running = False
            self._transport.stop(grace)
        self._lines.clear()
        self._fail_all(Cancelled("The engine was closed."))
        self._loads.clear()
        self._held.clear()
        self._arrays = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self.poll()  # tells those who wait

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The rest is the machinery.

    @property
    def _failure(self) -> str:
        """Why the worker could not be started, "" where it could."""
        return self._start_failure or self._transport.start_error

    def _why(self, status: int) -> str:
        if self._failure:
            return f"could not be started ({self._failure})"
        hint = " (perhaps for want of memory)" if status == -9 else ""
        # Requests are worked on in order: the first that is outstanding was under way.
        at_work = next((p.params for p in self._pending.values() if p.method in _READS), {})
        files = ", ".join(_files(at_work))
        return f"stopped unexpectedly (exit status {status}){hint}{f' while it worked on {files}' if files else ''}"

    def _ensure_running(self) -> None:
        if self._running and self._transport.exit_status() is not None:
            self.poll()  # the worker has died meanwhile: whoever waits is told so
        if self._running:
            return
        folder = str(self.arrays.folder)
        self._buffer, self._stderr = b"", b""
        self._held.clear()
        self._running, self._start_failure = True, ""
        try:
            self._transport.start()
        except OSError as error:  # told to the request's on_error by the next poll
            self._start_failure = error.strerror or str(error)
            return
        hello = {"version": VERSION, "product": __version__, "folder": folder}
        self._send(_Pending("hello", hello, on_error=self._refused))

    def _refused(self, error: Exception) -> None:
        self._transport.stop(0)
        self._ended(f"does not fit: {error}")

    def _ensure_loaded(self, params: dict[str, Any]) -> None:
        start = params.get("start")
        for key in (params.get("ct"), start.get("model") if isinstance(start, dict) else None):
            if isinstance(key, str) and key in self._loads and key not in self._held:
                method, load = self._loads[key]
                self._held.add(key)
                self._send(_Pending(method, load, on_error=partial(self._lost, key)))

    def _lost(self, key: str, _: Exception) -> None:
        self._held.discard(key)

    def _send(self, pending: _Pending) -> int:
        id, self._next_id = self._next_id, self._next_id + 1
        self._pending[id] = pending
        with suppress(OSError):  # the next poll sees that the worker has ended, and why
            self._transport.write(encode(Request(id, pending.method, pending.params)))
        return id

    def _take(self) -> None:
        if self._running:
            *lines, self._buffer = (self._buffer + self._transport.read()).split(b"\n")
            self._lines.extend(lines)
            self._stderr = (self._stderr + self._transport.read_errors())[-_TAIL:]
        while self._lines:
            self._dispatch(self._lines.popleft())

    def _dispatch(self, line: bytes) -> None:
        try:
            reply = decode_reply(line)
        except ProtocolError:
            return  # not ours: some library got hold of the stream
        pending = self._pending.get(reply.id) if reply.id is not None else None
        if pending is None:
            return
        if isinstance(reply, Progress):
            if pending.on_progress:
                pending.on_progress(reply.data)
            return
        assert reply.id is not None
        self._finish(reply.id)
        if isinstance(reply, Error):
            if pending.on_error:
                pending.on_error(self._exception(reply))
            return
        result = self.arrays.unpack(reply.result)
        if pending.method in _LOADS:
            self._loads[result[_LOADS[pending.method]]] = (pending.method, pending.params)
            self._held = set(result["held"])
        if pending.on_result:
            pending.on_result(result)

    def _exception(self, error: Error) -> Exception:
        if error.kind == "input":
            return InputError(error.message)
        if error.kind == "cancelled":
            return Cancelled(error.message)
        # The log comes by another pipe and may be a moment behind the answer, which says itself where it failed.
        return EngineError(error.message, error.details or self.log_tail)

    def _finish(self, id: int) -> _Pending:
        pending = self._pending.pop(id)
        for reference in pending.files:
            self.arrays.remove(reference)
        return pending

    def _ended(self, how: str, status: int | None = None) -> None:
        self._running = False
        self._held.clear()
        message = f"The engine {how.rstrip('.')}. The next request starts it again."
        self._fail_all(EngineStopped(message, self.log_tail, status))

    def _fail_all(self, error: Exception) -> None:
        for pending in [self._finish(id) for id in list(self._pending)]:
            if pending.on_error:
                self._calls.append(partial(pending.on_error, error))


def _files(value: Any, key: str = "") -> list[str]:
    """Names of the files that params name."""
    if isinstance(value, dict):
        return [name for key, item in value.items() for name in _files(item, key)]
    if isinstance(value, list):
        return [name for item in value for name in _files(item)]
    return [os.path.basename(value)] if key in ("path", "folder") and isinstance(value, str) else []


def _absolute(value: Any, key: str = "") -> Any:
    """A copy of params with the paths in it made absolute: the worker may have another current folder."""
    if isinstance(value, dict):
        return {name: _absolute(item, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_absolute(item) for item in value]
    if key in ("path", "folder") and isinstance(value, (str, os.PathLike)):
        return os.path.abspath(value)
    return value
