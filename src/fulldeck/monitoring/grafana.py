"""The panels as dashboards of Grafana, built with Grafana's own SDK (extra `dashboard`)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fulldeck.errors import extra
from fulldeck.monitoring.panels import Panel, Unit

UNITS: dict[Unit, str] = {
    "ratio": "percentunit",
    "bytes": "bytes",
    "bytes_per_second": "Bps",
    "per_second": "reqps",
    "seconds": "s",
    "mean": "short",
    "whole": "short",
    "plain": "short",
}
"""Units by Grafana's names."""
SOURCE = "fulldeck-prometheus"
"""Uid of the provisioned data source."""
WIDTH, HEIGHT = 12, 8
"""Of a panel, in cells of a grid that is 24 wide."""


def dashboard(title: str, uid: str, panels: Sequence[Panel], models: str) -> str:
    """A dashboard as JSON, with a choice of the model from the label of the metric `models`.

    Raises BadInput without the extra.
    """
    extra("grafana_foundation_sdk", "dashboard")
    from grafana_foundation_sdk.builders import common, prometheus, timeseries
    from grafana_foundation_sdk.builders import dashboard as build
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement, TooltipDisplayMode
    from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

    source = DataSourceRef(type_val="prometheus", uid=SOURCE)
    board = (
        build.Dashboard(title)
        .uid(uid)
        .tags(["fulldeck"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .readonly()
        .with_variable(
            build.QueryVariable("model")
            .label("Model")
            .query(f"label_values({models}, model)")
            .datasource(source)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        )
    )
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    for panel in panels:
        chart = (
            timeseries.Panel()
            .title(panel.title)
            .description(panel.says)
            .datasource(source)
            .unit(UNITS[panel.unit])
            .span(WIDTH)
            .height(HEIGHT)
            .legend(legend)
            .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        )
        if panel.unit != "plain":
            chart = chart.min(0)
        if panel.unit == "ratio":
            chart = chart.max(1)
        if panel.unit == "whole":
            chart = chart.decimals(0)
        for place, line in enumerate(panel.lines):
            chart = chart.with_target(
                prometheus.Dataquery()
                .expr(line.query)
                .legend_format(line.legend)
                .ref_id(chr(ord("A") + place))
                .datasource(source)
            )
        board = board.with_panel(chart)
    return json.dumps(board.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
