"""The README's section on containers, copied and run as it stands."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from benchmarks.containers.engine import engine
from tests.factories import encoded, picture


def port_is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.skipif(port_is_taken(8000), reason="somebody listens on port 8000")
def test_the_lines_of_the_readme_give_an_answer(clone: Path, bundle5: Path) -> None:
    section = (clone / "README.md").read_text().partition("## In a container\n")[2]
    found = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert found is not None
    shutil.copytree(bundle5, clone / "bundles" / "photos")
    (clone / "some.jpg").write_bytes(encoded(picture(0, width=64, height=48), "JPEG"))
    environment = {name: value for name, value in os.environ.items() if name != "IMAGE"}
    try:
        done = subprocess.run(
            ["bash", "-euc", found[1]],
            cwd=clone, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert '"members_used":5' in done.stdout.replace(" ", "")
        for _ in range(200):  # `--rm` removes it after `docker stop` has returned
            if "photos" not in engine("ps", "--all", "--format", "{{.Names}}").splitlines():
                break
        else:
            raise AssertionError("the container is still there")
    finally:
        subprocess.run(["docker", "rm", "--force", "photos"], capture_output=True)
