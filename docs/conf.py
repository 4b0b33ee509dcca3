"""Sphinx: these pages and the library's docstrings, as one site. Built by lint; every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "DiffPoseSlicer"))

import DiffPoseSlicerLib  # noqa: E402

project = "DiffPoseSlicer"
copyright = "DiffPoseSlicer contributors"
release = version = DiffPoseSlicerLib.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# Relative links out of docs/ (to Testing/, Resources/ ...) are links into the repository.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
# Only inside Slicer, or heavy: signatures are read without them.
autodoc_mock_imports = ["slicer", "vtk", "qt", "ctk", "torch", "warp", "safetensors"]
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"DiffPoseSlicer {release}"
html_static_path: list[str] = []


def write_commands(app: object) -> None:
    """The help of every command, as its own parser prints it."""
    import argparse
    import os

    from DiffPoseSlicerLib.cli.main import parser as make_parser

    os.environ["COLUMNS"] = "100"
    parser = make_parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    sections = [f"### {name}\n\n```text\n{one.format_help()}```\n" for name, one in commands.choices.items()]
    target = Path(__file__).parent / "_generated" / "commands.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text("\n".join(sections), encoding="utf-8")


def setup(app: object) -> None:
    app.connect("builder-inited", write_commands)  # type: ignore[attr-defined]
