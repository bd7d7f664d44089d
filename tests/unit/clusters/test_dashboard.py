"""The dashboard draws exactly what the code exports."""

import json
import re
from pathlib import Path

from v05ray.actors.gauges import COUNTERS, GAUGES

DASHBOARD = json.loads((Path(__file__).parents[3] / "clusters" / "grafana-dashboard.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_every_metric_in_the_dashboard_is_exported_and_every_exported_one_is_drawn():
    drawn = set(re.findall(r"ray_v05ray_\w+", " ".join(EXPRESSIONS)))
    assert drawn == {f"ray_{name}" for name in GAUGES} | {f"ray_{name}_total" for name in COUNTERS}


def test_legends_name_tags_that_their_metrics_have():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            (name,) = re.findall(r"ray_(v05ray_\w+?)(?:_total)?\{", target["expr"])
            tags = {"run", GAUGES[name][0] if name in GAUGES else "run"}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= tags, target


def test_every_panel_asks_for_the_chosen_runs_and_lies_beside_the_others():
    assert all('run=~"$run"' in expression for expression in EXPRESSIONS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "run"]
