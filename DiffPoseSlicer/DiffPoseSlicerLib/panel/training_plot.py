"""The plot beside a running preparation: its error over time, in one of Slicer's plot views."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtkmodules.util.numpy_support import numpy_to_vtk

from ..scene.nodes import helper, referenced

_TABLE, _CHART = "plotTable", "plotChart"
# role, key in a report, factor, colour
_CURVES = (
    ("plotError", "validationMtreMm", 1.0, (0.25, 0.60, 0.95)),
    ("plotError95", "validationMtre95Mm", 1.0, (0.55, 0.65, 0.75)),
    ("plotSuccess", "validationSuccess", 100.0, (0.25, 0.72, 0.42)),
)


def show(owner: Any, reports: list[dict[str, Any]], view_node: Any) -> Any:
    """Bring the plot up to date with a job's reports (progress.jsonl) and show it. The chart's node, or None.

    Reports without an error are left out; a curve is drawn where there are figures for it.
    """
    reports = [r for r in reports if r.get("seconds") is not None and r.get("validationMtreMm") is not None]
    if len(reports) < 2:  # one point makes no line
        return None
    table = helper(owner, _TABLE, "vtkMRMLTableNode", "Training")
    data = vtk.vtkTable()
    _add_column(data, "time", [report["seconds"] for report in reports])
    there = []
    for role, key, factor, _color in _CURVES:
        values = [np.nan if report.get(key) is None else report[key] * factor for report in reports]
        _add_column(data, role, values)
        there.append(bool(np.isfinite(values).any()))
    table.SetAndObserveTable(data)
    chart = referenced(owner, _CHART)
    if chart is None:
        chart = _make_chart(owner)
    for (role, _key, _factor, color), drawn in zip(_CURVES, there, strict=True):
        if drawn and referenced(owner, role) is None:
            chart.AddAndObservePlotSeriesNodeID(_series(owner, role, table, color).GetID())
    if view_node is not None and view_node.GetPlotChartNodeID() != chart.GetID():
        view_node.SetPlotChartNodeID(chart.GetID())
    return chart


def _add_column(data: vtk.vtkTable, name: str, values: list[float]) -> None:
    array = numpy_to_vtk(np.array(values, float), deep=True)
    array.SetName(name)
    data.AddColumn(array)


def _make_chart(owner: Any) -> Any:
    chart = helper(owner, _CHART, "vtkMRMLPlotChartNode", "Training")
    chart.SetTitle(_("Preparation: error of the first guess"))
    chart.SetXAxisTitle(_("time (s)"))
    chart.SetYAxisTitle(_("error (mm)"))
    chart.SetLegendVisibility(True)
    return chart


def _series(owner: Any, role: str, table: Any, color: tuple[float, float, float]) -> Any:
    name = {
        "plotError": _("half of the images (mm)"),
        "plotError95": _("19 of 20 images (mm)"),
        "plotSuccess": _("success (%)"),
    }[role]
    series = helper(owner, role, "vtkMRMLPlotSeriesNode", name)
    series.SetName(name)
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("time")
    series.SetYColumnName(role)
    series.SetPlotType(slicer.vtkMRMLPlotSeriesNode.PlotTypeScatter)
    series.SetMarkerStyle(slicer.vtkMRMLPlotSeriesNode.MarkerStyleNone)
    series.SetLineWidth(2)
    series.SetColor(*color)
    return series
