"""The names that outsiders rely on; a change here breaks somebody."""

import argparse
import importlib

import pytest

from snapensemble.cli import COMMANDS

FLAGS = {
    "train": {
        "--data", "--out", "--resume", "--more-cycles", "--branch", "--cycle", "--config",
        "--schedule", "--model", "--pretrained", "--tune", "--views", "--layer-decay",
        "--cycles", "--epochs", "--minutes", "--cycle-epochs", "--first-cycle-epochs",
        "--t-mult", "--lr-max",
        "--lr-min", "--restart-from",
        "--lr-max-decay", "--warmup-epochs", "--lr-steps", "--lr-factor", "--patience",
        "--lr-start", "--hyper-lr", "--hyper-rule", "--batch-size", "--momentum",
        "--weight-decay", "--frozen-statistics", "--no-frozen-statistics", "--clip-norm",
        "--label-smoothing", "--image-size", "--crop-padding", "--flip",
        "--no-flip", "--cutout", "--random-resized-crop", "--trivial-augment",
        "--no-trivial-augment", "--color-jitter", "--random-erasing", "--mixup", "--cutmix",
        "--class-balance", "--fit", "--max-bad-images",
        "--max-image-cost", "--val-fraction", "--split-seed", "--seed", "--device", "--threads",
        "--precision", "--compile", "--no-compile", "--checkpoint-minutes", "--tensorboard",
        "--no-tensorboard", "--track", "--runs", "--ray", "--ray-cpus", "--ray-gpus",
    },
    "export": {
        "--out", "--members", "--select", "--weights", "--metric", "--quantize", "--cascade",
        "--no-cascade",
        "--int8-gate", "--sets", "--max-accuracy-drop", "--max-nll-rise",
        "--max-int8-accuracy-drop",
        "--max-int8-nll-rise", "--min-int8-agreement", "--data", "--report", "--no-report",
        "--thumbnails", "--no-thumbnails", "--name", "--force", "--track", "--no-track",
        "--novelty", "--no-novelty", "--class-prior",
    },
    "evaluate": {
        "--data", "--split", "--limit", "--mode", "--unlike", "--report", "--no-report",
        "--max-accuracy-drop", "--json",
    },
    "report": {"--out", "--json"},
    "suspects": {"--out", "--data", "--top", "--thumbnails", "--no-thumbnails"},
    "bom": {"--out"},
    "sign": {"--key"},
    "serve": {
        "--host", "--port", "--uds", "--uds-mode", "--root-path", "--grpc-port",
        "--default-model", "--versions", "--watch", "--model-control", "--no-model-control",
        "--shadow", "--shadow-share", "--name", "--expect-bundle", "--verify-key", "--keep-alive-s",
        "--mode", "--max-accuracy-drop",
        "--threads", "--workers", "--providers", "--max-batch-size", "--max-queue",
        "--max-connections", "--max-wait-ms", "--max-body-bytes", "--max-bytes-in-flight",
        "--max-image-pixels", "--max-images-per-request", "--body-timeout-s", "--drain-seconds",
        "--shutdown-timeout-s",
        "--access-log", "--no-access-log", "--log-format", "--tokens-file", "--metrics-port",
        "--cors-origins",
    },
    "predict": {
        "--bundle", "--url", "--top", "--mode", "--coverage", "--abstain", "--novelty", "--explain",
        "--max-image-cost", "--json",
        "--out", "--probabilities", "--no-probabilities", "--move-to", "--link-to", "--restart",
        "--ray", "--ray-cpus", "--ray-gpus", "--part-rows",
    },
    "bench": {
        "--concurrency", "--rate", "--mode", "--seconds", "--images", "--images-per-request",
        "--url", "--json",
    },
    "demo": {"--once", "--out", "--port"},
    "completion": set(),
}  # fmt: skip


def test_the_commands() -> None:
    assert set(COMMANDS) == set(FLAGS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_of_each_command(command: str) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert flags - {"-h", "--help"} == FLAGS[command]
