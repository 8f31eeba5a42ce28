"""The page on scale says what its script computes, and the simulation keeps its books."""

import importlib
from pathlib import Path

import pytest

from jobs import sizing

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/scale.md").read_text()
scale = importlib.import_module("tests.benchmarks.scale")


def test_every_unit_is_done_once_and_what_is_lost_is_paid_for(monkeypatch):
    calm = scale.simulate(20_000, 16, 10)
    monkeypatch.setattr(scale, "LOST_PER_NODE_HOUR", 2.0)
    stormy = scale.simulate(20_000, 16, 10)
    assert calm.units == stormy.units == 1250
    assert stormy.repeated > calm.repeated
    assert stormy.hours > calm.hours
    assert stormy.efficiency < calm.efficiency <= 1
    assert calm.hours * 3600 * 150 * calm.efficiency == pytest.approx(20_000 * scale.VIDEO_CORE_S, rel=0.05)


@pytest.mark.parametrize(("nodes", "per_unit"), [(100, 256), (1000, 256)])
def test_the_table_of_schedules_is_what_the_simulation_gives(nodes, per_unit):
    found = scale.simulate(scale.CLIPS // scale.CLIPS_PER_VIDEO, per_unit, nodes)
    row = f"| {found.units:,} | {found.hours:.2f} | {found.efficiency:.0%} | {found.repeated:,} |"
    assert f"| {nodes:,} | {per_unit} {row}" in PAGE


def test_the_table_of_shards_is_what_the_arithmetic_gives():
    for row in scale.shards():
        assert row in PAGE


def test_the_runbooks_sizes_are_those_of_the_calculator():
    text = (ROOT / "docs/runbook.md").read_text()
    found = sizing.size(100)
    days = sum(found.gpu_days.values())
    for said in (
        f"{found.core_hours:.0f} core-hours",
        f"{found.raw_gb:.0f} GB of raw video",
        f"{found.shards_gb:.0f} GB of shards",
        f"{days:.0f} A100-days",
        f"{days * 24 / 8:.0f} h on 8 × A100",
        f"{found.checkpoints_gb:.0f} GB in stage 2",
        f"{found.core_hours * 0.05:.0f} for ingest, {days * 2 * 24 * 4:,.0f} for training, "
        f"{(found.raw_gb + found.shards_gb) * 0.023:.0f} a month for storage",
    ):
        assert said in text, said
    twice = sizing.size(200)
    assert twice.core_hours == 2 * found.core_hours
    assert twice.gpu_days == found.gpu_days, "the number of steps does not depend on the data"
