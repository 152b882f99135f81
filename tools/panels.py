"""How dashboards are drawn: graphs, figures, tables and text on Grafana's own model. What is shown on them is in `dashboards`."""

import json
from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, text, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as queries
from grafana_foundation_sdk.models.text import TextMode

SECONDS: Final = "s"
SHARE: Final = "percentunit"
PER_SECOND: Final = "cps"
COUNT: Final = "short"
BYTES: Final = "bytes"
# Every query is of the installations that the reader has chosen; on one machine there is none to choose.
WHERE: Final = 'namespace=~"$namespace"'

Panel = Builder[model.Panel]
# A query, and the legend of each of its series.
Query = tuple[str, str]
_DATASOURCE: Final = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
_NAMES: Final = "ABCDEFGH"


def graph(title: str, unit: str, *asked: Query, about: str = "", width: int = 8, share_of_one: bool = False) -> Panel:
    """Lines over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(_DATASOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(8)
        .line_width(1)
        .fill_opacity(8)
        .show_points(options.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    if share_of_one:
        panel.max(1)
    for name, (expression, legend) in zip(_NAMES, asked, strict=False):
        panel.with_target(prometheus.Dataquery().ref_id(name).expr(expression).legend_format(legend).range())
    return panel


def figure(
    title: str, unit: str, expression: str, legend: str = "", *, about: str = "", width: int = 4, bad_from: float | None = None
) -> Panel:
    """One number, or one for each series, as it is now; red from `bad_from` on."""
    steps = [model.Threshold(value=None, color="green")]
    if bad_from is not None:
        steps.append(model.Threshold(value=bad_from, color="red"))
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(_DATASOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().ref_id("A").expr(expression).legend_format(legend).instant())
    )


def listing(title: str, expression: str, *, about: str = "", width: int = 12, height: int = 8) -> Panel:
    """The series of a query as it is now, a line for each."""
    return (
        table.Panel()
        .title(title)
        .description(about)
        .datasource(_DATASOURCE)
        .span(width)
        .height(height)
        .with_target(prometheus.Dataquery().ref_id("A").expr(expression).instant().format(queries.PromQueryFormat.TABLE))
    )


def prose(title: str, markdown: str, *, width: int = 24, height: int = 6) -> Panel:
    """Text in Markdown."""
    return text.Panel().title(title).mode(TextMode.MARKDOWN).content(markdown).span(width).height(height)


def quantile(share: float, histogram: str, by: str = "", where: str = "") -> str:
    """The quantile of a histogram, for each value of the labels `by`."""
    labels = ", ".join(part for part in ("le", by) if part)
    return f"histogram_quantile({share:g}, sum by ({labels}) (rate({histogram}_bucket{{{_all(where)}}}[$__rate_interval])))"


def rate(counter: str, by: str = "", where: str = "") -> str:
    """How often in a second, for each value of the labels `by`."""
    return f"sum{f' by ({by})' if by else ''} (rate({counter}{{{_all(where)}}}[$__rate_interval]))"


def highest(gauge: str, by: str, where: str = "") -> str:
    """A gauge of which every replica reports the same."""
    return f"max by ({by}) ({gauge}{{{_all(where)}}})"


def _all(where: str) -> str:
    return f"{WHERE},{where}" if where else WHERE


def render(uid: str, title: str, about: str, rows: Sequence[tuple[str, Sequence[Panel]]]) -> str:
    """A dashboard's JSON. Rows without panels are left out."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(about)
        .tags(["linli"])
        .readonly()
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("namespace")
            .label("Installation")
            .datasource(_DATASOURCE)
            .query("label_values(linli_build_info, namespace)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
            .current(model.VariableOption(selected=True, text="All", value="$__all"))
        )
        .link(dashboard.DashboardLink("Linli").type(model.DashboardLinkType.DASHBOARDS).tags(["linli"]).as_dropdown(True).keep_time(True))
    )
    for name, panels in rows:
        if panels:
            made.with_row(dashboard.Row(name))
            for panel in panels:
                made.with_panel(panel)
    built = made.build()
    for number, drawn in enumerate(built.panels or (), start=1):
        drawn.id_val = number
    return json.dumps(json.loads(JSONEncoder().encode(built)), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
