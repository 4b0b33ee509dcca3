"""A small host for 3D Slicer scripted modules: test equipment, never shipped with the extension.

It runs a module's unmodified files on the ``slicer-core`` wheel (Slicer's real MRML nodes, logics and displayable
managers) and PySide6, without the Slicer application. Three levels, each usable without the next:

``slicerhost.core``       the scene with its singleton nodes and module logics, no Qt
``slicerhost.offscreen``  slice, 3D and plot views drawn to arrays by Slicer's displayable managers, no Qt
``slicerhost.app``        ``qt``, ``ctk``, ``slicer.app``, main window, layouts, module panels

``SLICER_PYTHON``, the path of a Slicer checkout's ``Base/Python``, swaps Slicer's own Python files in for this host's
small versions of them.
"""
