"""The alerts that the product ships, by Prometheus's own tool for testing rules."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.docker.test_files import DOCKER

NOT_INSTALLED = shutil.which("promtool") is None
pytestmark = pytest.mark.skipif(NOT_INSTALLED, reason="promtool is not installed")

REFUSED = 'snapensemble_problems_total{code="overloaded", instance="%s"}'
RECEIVED = 'snapensemble_stage_duration_seconds_count{stage="receive", instance="%s"}'
ELSEWHERE = 'snapensemble_requests_total{route="/v2/models/{model}/infer", instance="%s"}'
REFUSALS = f"""
rule_files: [alerts.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {{series: '{REFUSED % "busy"}', values: "0+2x80"}}
      - {{series: '{RECEIVED % "busy"}', values: "0+100x80"}}
      - {{series: '{ELSEWHERE % "busy"}', values: "0+100x80"}}
      - {{series: '{REFUSED % "calm"}', values: "0+1x80"}}
      - {{series: '{RECEIVED % "calm"}', values: "0+200x80"}}
      - {{series: '{ELSEWHERE % "calm"}', values: "0+200x80"}}
    promql_expr_test:
      - expr: count by (alertname, instance) (ALERTS{{alertstate="firing"}})
        eval_time: 15m
        exp_samples:
          - {{labels: '{{alertname="SnapensembleRefuses", instance="busy"}}', value: 1}}
"""


def test_the_alert_for_refusals_rings_whichever_contract_is_asked(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "prometheus/alerts.yml", tmp_path)
    (tmp_path / "refusals.yml").write_text(REFUSALS)
    subprocess.run(["promtool", "test", "rules", "refusals.yml"], cwd=tmp_path, check=True)
