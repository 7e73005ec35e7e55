"""The demo as a stranger runs it, and what it promises."""

from pathlib import Path

import pytest

from snapensemble.contracts.errors import InvalidConfig
from snapensemble.contracts.run import RUN_FILE
from snapensemble.demo import free_port, remove_former
from snapensemble.evaluate import evaluate
from snapensemble.trainer.config_file import CONFIG_FILE
from tests.forks import run


@pytest.mark.slow
def test_the_demo_trains_serves_and_answers_better_than_its_members_in_the_mean(
    tmp_path: Path,
) -> None:
    found = run("demo", "--once", "--out", tmp_path, "--port", "0")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("right\n") >= 8
    assert "curl -H 'Content-Type: image/png' --data-binary @" in found.stdout
    figures = evaluate(tmp_path / "bundle")
    assert figures["ensemble"]["accuracy"] >= 0.97
    alone = [member["nll"] for member in figures["members"]]
    assert len(alone) == 5 and figures["ensemble"]["nll"] < sum(alone) / len(alone)


def test_a_former_demo_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_FILE).touch()
    remove_former(tmp_path / "run", RUN_FILE)
    assert not (tmp_path / "run").exists()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / CONFIG_FILE).touch()  # before there was a manifest: train goes over it
    remove_former(tmp_path / "killed", RUN_FILE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InvalidConfig, match="was not made by the demo"):
        remove_former(tmp_path / "mine", RUN_FILE)


def test_a_taken_port_is_replaced_by_a_free_one(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert free_port(taken.getsockname()[1]) == 0
    assert "is taken" in capsys.readouterr().out
