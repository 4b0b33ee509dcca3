"""Running CLI modules: here, the function stand-ins of ``slicerhost.modules``."""

from __future__ import annotations

from typing import Any

import slicer


def createNode(cliModule: Any, parameters: dict[str, Any] | None = None) -> Any:
    """A new parameter node for a CLI module."""
    node = cliModule.logic().CreateNodeInScene()
    setNodeParameters(node, parameters)
    return node


def setNodeParameters(node: Any, parameters: dict[str, Any] | None) -> None:
    """Set parameters by name; sequences become comma-separated text, nodes their ID."""
    for name, value in (parameters or {}).items():
        if isinstance(value, slicer.vtkMRMLNode):
            node.SetParameterAsNode(name, value)
        elif isinstance(value, (list, tuple)):
            node.SetParameterAsString(name, ", ".join(map(str, value)))
        else:
            node.SetParameterAsString(name, value)


def run(
    module: Any,
    node: Any = None,
    parameters: dict[str, Any] | None = None,
    wait_for_completion: bool = False,
    delete_temporary_files: bool = True,
    update_display: bool = True,
    hide_window: bool = True,
) -> Any:
    """Run a CLI module and return its parameter node."""
    if node is None:
        node = createNode(module, parameters)
    else:
        setNodeParameters(node, parameters)
    logic = module.logic()
    (logic.ApplyAndWait if wait_for_completion else logic.Apply)(node, update_display)
    return node


def runSync(module: Any, node: Any = None, parameters: dict[str, Any] | None = None, **options: Any) -> Any:
    """Run a CLI module and wait for it."""
    return run(module, node, parameters, wait_for_completion=True, **options)
