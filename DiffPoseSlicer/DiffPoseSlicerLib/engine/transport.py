"""How bytes get to a worker and back. Slicer's panel supplies one made of QProcess; this one is for everywhere else."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO, Protocol

from .launch import engine_command, engine_environment


class Transport(Protocol):
    """A worker process that can be started, again and again, and talked to without blocking."""

    start_error: str
    """Why the last start failed, where `start` could not tell yet; else empty."""

    def start(self) -> None:
        """Start a new worker. Raises OSError where it cannot be."""

    def write(self, data: bytes) -> None:
        """Send bytes to its stdin. Raises OSError where it is gone."""

    def read(self) -> bytes:
        """What has come on its stdout since the last call; b"" if nothing."""

    def read_errors(self) -> bytes:
        """What has come on its stderr since the last call."""

    def wait(self, seconds: float) -> None:
        """Block until something can be read or the worker has ended, at most so long."""

    def exit_status(self) -> int | None:
        """None while it runs or has output left to read; before the first start and after the end a number."""

    def stop(self, grace: float) -> None:
        """Close its stdin, which ends it; kill it where it still runs after `grace` seconds."""


class _Pipe:
    """Collects what a stream gives, in a thread."""

    def __init__(self, stream: IO[bytes], something: threading.Condition) -> None:
        self._data, self._something, self.ended = bytearray(), something, False
        threading.Thread(target=self._run, args=(stream,), daemon=True).start()

    def _run(self, stream: IO[bytes]) -> None:
        with stream:
            while data := stream.read1(65536):  # type: ignore[attr-defined]  # a buffered reader
                with self._something:
                    self._data += data
                    self._something.notify_all()
        with self._something:
            self.ended = True
            self._something.notify_all()

    def take(self) -> bytes:
        with self._something:
            data = bytes(self._data)
            self._data.clear()
        return data

    @property
    def ready(self) -> bool:
        """Something can be taken, or nothing ever will."""
        return bool(self._data) or self.ended

    @property
    def exhausted(self) -> bool:
        """Everything has been taken and nothing more will come."""
        return self.ended and not self._data


class SubprocessTransport:
    """A worker as a child process, its output collected by two threads.

    Args:
        python: The interpreter that runs the worker; default this one.
        env: The environment to start from; default this process's.
        command: Something else to run instead (for tests).
    """

    def __init__(
        self, python: str | None = None, env: Mapping[str, str] | None = None, command: Sequence[str] | None = None
    ) -> None:
        self._command = list(command) if command else engine_command(python)
        self._env = env
        self._process: subprocess.Popen[bytes] | None = None
        self.start_error = ""

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        self.stop(0)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=engine_environment(self._env),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows: no console window
        )
        assert self._process.stdout and self._process.stderr
        self._something = threading.Condition()
        self._out = _Pipe(self._process.stdout, self._something)
        self._err = _Pipe(self._process.stderr, self._something)

    def write(self, data: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            raise BrokenPipeError("no worker runs")
        self._process.stdin.write(data)
        self._process.stdin.flush()

    def read(self) -> bytes:
        return self._out.take() if self._process else b""

    def read_errors(self) -> bytes:
        if self._process is None:
            return b""
        if self._process.poll() is not None:
            with self._something:  # let the last words arrive
                self._something.wait_for(lambda: self._err.ended, 0.2)
        return self._err.take()

    def wait(self, seconds: float) -> None:
        if self._process:
            with self._something:
                self._something.wait_for(lambda: self._out.ready, seconds)

    def exit_status(self) -> int | None:
        if self._process is None:
            return 0
        if not self._out.exhausted:
            return None
        try:
            return self._process.wait(0.1)  # its stdout is closed: it is about to end
        except subprocess.TimeoutExpired:
            return None

    def stop(self, grace: float) -> None:
        if self._process is None:
            return
        with suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
