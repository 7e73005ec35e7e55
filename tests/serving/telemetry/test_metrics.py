import asyncio
from functools import partial
from pathlib import Path

from snapensemble.contracts.bundle import read_bundle
from snapensemble.serving.http.app import create_app
from snapensemble.serving.http.protocol import GuardedProtocol
from snapensemble.serving.inference.batch import BatchReport
from snapensemble.serving.inference.engine import Engine
from snapensemble.serving.process.server import Server, uvicorn_config
from snapensemble.serving.shutdown import Shutdown
from snapensemble.serving.telemetry.metrics import Metrics
from tests.serving.conftest import LIMITS

NAMES = {place: f"cycle-{place:02}" for place in range(3)}


def report(members_s: tuple[float, ...], members_used: int) -> BatchReport:
    return BatchReport(
        images=4,
        waits_s=(0.1, 0.2, 0.3, 0.4) if members_used == len(members_s) else (),
        inference_s=0.5,
        members_s=members_s,
        answered=3,
        members_used=members_used,
        failed=False,
    )


def test_lane_time_is_counted_for_each_member_by_its_name(bundle_dir: Path) -> None:
    metrics = Metrics()
    bundle = read_bundle(bundle_dir)
    metrics.served("insects", bundle.version, bundle, is_served=True)
    metrics.batch("insects", NAMES, report((0.25, 0.5, 1.0), members_used=3))
    metrics.batch("insects", NAMES, report((2.0,), members_used=2))  # a cascade's second stage
    seconds = {
        sample.labels["member"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "snapensemble_member_busy_seconds_total"
    }
    assert seconds == {"cycle-00": 0.25, "cycle-01": 2.5, "cycle-02": 1.0}


def test_a_micro_batch_is_counted_with_its_waits_and_its_members() -> None:
    metrics = Metrics()
    metrics.batch("insects", NAMES, report((0.25, 0.5, 1.0), members_used=3))
    lines = metrics.page().decode().splitlines()
    for line in (
        'snapensemble_stage_duration_seconds_count{stage="queue"} 4.0',
        'snapensemble_stage_duration_seconds_sum{stage="inference"} 0.5',
        "snapensemble_batch_size_images_sum 4.0",
        "snapensemble_members_used_sum 9.0",
    ):
        assert line in lines


def test_model_and_build_are_named(bundle_dir: Path) -> None:
    metrics = Metrics()
    metrics.served("insects", "0badcafe", read_bundle(bundle_dir), is_served=True)
    page = metrics.page().decode()
    assert 'snapensemble_model_info{members="3",name="insects",version="0badcafe"} 1.0' in page
    assert "snapensemble_build_info{onnxruntime=" in page


def test_a_micro_batch_of_one_model_says_nothing_of_what_waits_for_all() -> None:
    metrics = Metrics()
    metrics.queued.set(7)
    metrics.batch("insects", NAMES, report((0.25, 0.5, 1.0), members_used=3))
    assert metrics.registry.get_sample_value("snapensemble_queue_images") == 7


async def test_gauges_are_brought_up_to_date_where_nobody_is_connected_by_http(
    engine: Engine,
) -> None:
    app = create_app(LIMITS, engine)
    config = uvicorn_config(app, partial(GuardedProtocol, room=1))
    config.load()
    server = Server(config, Shutdown(), app.state.service)
    held = partial(app.state.metrics.registry.get_sample_value, "snapensemble_held_bytes")
    with engine.admission.request() as request:
        request.hold(7)
        await server.on_tick(0)
        await asyncio.sleep(0)
        assert held() == 7
    await server.on_tick(10)
    await asyncio.sleep(0)
    assert held() == 0
