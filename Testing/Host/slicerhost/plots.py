"""Plot view drawn off screen: ``vtkMRMLPlotChartNode`` and its series as a VTK chart, as ``qMRMLPlotView`` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
import vtk

from .core import start_core
from .offscreen import Image, OnePerTag, grab

_BOTTOM, _LEFT = vtk.vtkAxis.BOTTOM, vtk.vtkAxis.LEFT


class PlotView(metaclass=OnePerTag):
    """``PlotView(size, tag)``: shows the chart that its plot view node names."""

    default_tag = "PlotView1"

    def __init__(self, _size: tuple[int, int], tag: str) -> None:
        self.core = start_core()
        scene = self.core.scene
        node = scene.GetSingletonNode(tag, "vtkMRMLPlotViewNode")
        if node is None:
            node = slicer.vtkMRMLPlotViewNode()
            node.SetSingletonTag(tag)
            node.SetLayoutName(tag)
            node.SetName(tag)
            node = scene.AddNode(node)
        self.node = node
        self.window = vtk.vtkRenderWindow()
        self.window.SetOffScreenRendering(1)
        self.window.SetMultiSamples(0)
        self.view = vtk.vtkContextView()
        self.view.SetRenderWindow(self.window)
        self.chart = vtk.vtkChartXY()
        self.view.GetScene().AddItem(self.chart)
        self._request: Callable[[], None] = lambda: None
        self._observed: list[tuple[Any, int]] = []
        self._observe(self.node)
        self.update()

    def on_render_request(self, callback: Callable[[], None]) -> None:
        self._request = callback

    def resize(self, size: tuple[int, int]) -> None:
        self.size = size
        self.window.SetSize(*size)

    def image(self) -> Image:
        """Render and return the picture, uint8 [row, column, 3]."""
        self.window.Render()
        return grab(self.window)

    def chart_node(self) -> Any:
        return self.node.GetPlotChartNode()

    def series(self) -> list[Any]:
        """The series nodes shown, in order."""
        chart = self.chart_node()
        nodes = [chart.GetNthPlotSeriesNode(i) for i in range(chart.GetNumberOfPlotSeriesNodes())] if chart else []
        return [node for node in nodes if node is not None]

    def update(self) -> None:
        """Bring the chart into step with the nodes, and watch those now shown."""
        for node, tag in self._observed[1:]:
            node.RemoveObserver(tag)
        del self._observed[1:]
        self.chart.ClearPlots()
        chart_node = self.chart_node()
        if chart_node:
            self._observe(chart_node)
            self._decorate(chart_node)
        for series in self.series():
            self._observe(series)
            table = series.GetTableNode()
            if table:
                self._observe(table)
                self._add(series, table.GetTable())
        self._request()

    def _observe(self, node: Any) -> None:
        for event in (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent):
            self._observed.append((node, node.AddObserver(event, lambda *_: self.update())))
            if node is self.node:
                return

    def _decorate(self, node: Any) -> None:
        self.chart.SetTitle(node.GetTitle() or "" if node.GetTitleVisibility() else "")
        self.chart.SetShowLegend(node.GetLegendVisibility())
        for axis, title in ((_BOTTOM, node.GetXAxisTitle()), (_LEFT, node.GetYAxisTitle())):
            self.chart.GetAxis(axis).SetTitle(title or "")
        for axis, automatic, limits in (
            (_BOTTOM, node.GetXAxisRangeAuto(), node.GetXAxisRange()),
            (_LEFT, node.GetYAxisRangeAuto(), node.GetYAxisRange()),
        ):
            self.chart.GetAxis(axis).SetBehavior(vtk.vtkAxis.AUTO if automatic else vtk.vtkAxis.FIXED)
            if not automatic:
                self.chart.GetAxis(axis).SetRange(*limits)

    def _add(self, series: Any, table: Any) -> None:
        x, y = (
            table.GetColumnByName(series.GetXColumnName() or ""),
            table.GetColumnByName(series.GetYColumnName() or ""),
        )
        if y is None or not table.GetNumberOfRows():
            return
        bar = series.GetPlotType() in (series.PlotTypeBar, series.PlotTypeScatterBar)
        plot = self.chart.AddPlot(vtk.vtkChart.BAR if bar else vtk.vtkChart.LINE)
        if x is not None and series.GetPlotType() in (series.PlotTypeScatter, series.PlotTypeScatterBar):
            plot.SetInputData(table, series.GetXColumnName(), series.GetYColumnName())
        else:
            plot.SetUseIndexForXSeries(True)
            plot.SetInputData(table, series.GetYColumnName(), series.GetYColumnName())
        plot.SetColorF(*series.GetColor())
        plot.SetLabel(series.GetName())
        if not bar:
            plot.SetWidth(series.GetLineWidth() if series.GetLineStyle() else 0)
            plot.GetPen().SetLineType(series.GetLineStyle())
            plot.SetMarkerStyle(series.GetMarkerStyle())
            plot.SetMarkerSize(series.GetMarkerSize())
