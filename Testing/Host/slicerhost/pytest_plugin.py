"""Fixtures for tests of panels. In a test file, with ``Testing/Host`` on ``sys.path``:

pytest_plugins = ["slicerhost.pytest_plugin"]

def test_panel(host):
    widget = host.open("HostExample")
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a Qt application run last: ``slicer.app`` and open views stay for the rest of the process."""
    items.sort(key=lambda item: "host" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def running_host() -> object:
    """The host, started once."""
    pytest.importorskip("slicer_core", reason="needs slicer-core")
    pytest.importorskip("PySide6", reason="needs PySide6")
    from slicerhost.app import start

    return start()


@pytest.fixture
def host(running_host) -> Iterator[object]:
    """The host with an empty scene and its first layout. A test in which a slot or an observer raises fails; one that
    expects it empties ``host.errors``."""
    _restore(running_host)
    yield running_host
    errors = list(running_host.errors)
    _restore(running_host)
    assert not errors, "\n".join(errors)


def _restore(host) -> None:
    import slicer

    host.core.clear()
    host.app.setTestingEnabled(True)
    host.pip("present")
    host.pip.installed.clear()
    host.pip.uninstalled.clear()
    host.app.extensionsManagerModel().requested.clear()
    slicer.dicomDatabase.clear()
    if host.window is not None:
        host.window.resize(1280, 800)
        host.app.layoutManager().setLayout(3)
    host.user.process_events()
    host.errors.clear()
    host.qt_warnings.clear()
