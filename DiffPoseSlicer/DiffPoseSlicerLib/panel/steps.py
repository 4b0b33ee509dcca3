"""What the four steps of the panel have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .panel import Panel


class Step:
    """One step: its widgets, what they do, how they look in the present state.

    A step never keeps a state of its own where the scene or a job folder has it: :meth:`refresh` reads it again.
    """

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.ui = panel.ui
        self.logic = panel.logic
        self._opened = False

    @property
    def ct(self) -> Any:
        """The chosen CT node, or None."""
        return self.panel.parameters.ct if self.panel.parameters is not None else None

    @property
    def fluoroscopy(self) -> Any:
        """The chosen fluoroscopy node, or None."""
        return self.panel.parameters.fluoroscopy if self.panel.parameters is not None else None

    def open(self, section: Any, possible: bool) -> None:
        """Unfold a step's section when it becomes possible; from then on it is the user's to fold."""
        if possible and not self._opened:
            self._opened = True
            section.collapsed = False

    def refresh(self) -> None:
        """Show the present state. Cheap; called after every change."""

    def close(self) -> None:
        """The panel goes away."""
