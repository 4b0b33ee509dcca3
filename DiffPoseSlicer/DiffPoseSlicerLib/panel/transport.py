"""The engine's process as a QProcess: nothing blocks, and output wakes whoever listens."""

from __future__ import annotations

from collections.abc import Callable

import qt

from ..engine.launch import POLITE, engine_command, engine_environment
from . import settings


class QProcessTransport:
    """A worker process for :class:`~..engine.client.EngineClient`, under the interpreter of the settings.

    Args:
        on_activity: Called when there is something to read or the process has ended.
    """

    def __init__(self, on_activity: Callable[[], None] | None = None) -> None:
        self.on_activity = on_activity
        self.start_error = ""
        self._process: qt.QProcess | None = None
        self._former: qt.QProcess | None = None
        # What follows from a signal may end or replace the process, which must not happen while it still signals.
        self._later = qt.QTimer()
        self._later.setSingleShot(True)
        self._later.setInterval(0)
        self._later.connect("timeout()", self._tell)

    @property
    def pid(self) -> int | None:
        """The worker's process id, while it runs."""
        return int(self._process.processId()) if self._process is not None and self._alive() else None

    def start(self) -> None:
        self.stop(0)
        self.start_error = ""
        program, *arguments = engine_command(settings.python())
        environment = qt.QProcessEnvironment()
        for name, value in (engine_environment(settings.environment()) | {POLITE: "1"}).items():
            environment.insert(name, value)
        process = qt.QProcess()
        process.setProcessEnvironment(environment)
        process.connect("readyReadStandardOutput()", self._wake)
        process.connect("finished(int,QProcess::ExitStatus)", self._wake)
        process.connect("errorOccurred(QProcess::ProcessError)", self._failed)
        self._process = process
        process.start(program, arguments)

    def write(self, data: bytes) -> None:
        if self._process is None or not self._alive():
            raise BrokenPipeError("no worker runs")
        self._process.write(qt.QByteArray(data))

    def read(self) -> bytes:
        return b"" if self._process is None else bytes(self._process.readAllStandardOutput().data())

    def read_errors(self) -> bytes:
        return b"" if self._process is None else bytes(self._process.readAllStandardError().data())

    def wait(self, seconds: float) -> None:
        if self._process is not None and self._alive():
            self._process.waitForReadyRead(int(seconds * 1000))

    def exit_status(self) -> int | None:
        if self._process is None:
            return 0
        if self.start_error:
            return 127
        if self._alive() or self._process.bytesAvailable():
            return None
        status = int(self._process.exitCode())
        return -status if self._process.exitStatus() == qt.QProcess.CrashExit else status  # killed: the signal

    def stop(self, grace: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        for signal in ("readyReadStandardOutput()", "finished(int,QProcess::ExitStatus)"):
            process.disconnect(signal, self._wake)
        process.disconnect("errorOccurred(QProcess::ProcessError)", self._failed)
        process.closeWriteChannel()  # the end of its stdin ends the worker
        if process.state() != qt.QProcess.NotRunning and not process.waitForFinished(int(grace * 1000)):
            process.kill()
            process.waitForFinished(2000)
        self._former = process  # kept a while: it may be on the stack that got here

    def _alive(self) -> bool:
        return self._process is not None and self._process.state() != qt.QProcess.NotRunning

    def _wake(self) -> None:
        self._later.start()

    def _tell(self) -> None:
        if self.on_activity:
            self.on_activity()

    def _failed(self, error: int) -> None:
        # A program that could not be started never "finishes"; what else goes wrong does.
        if error == qt.QProcess.FailedToStart and self._process is not None:
            self.start_error = self._process.errorString()
        self._wake()
