"""wrk, an HTTP load generator in C that leaves the processors to the server."""

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OCTETS = {"Content-Type": "application/octet-stream"}

# wrk runs this: one request per picture, prepared before the load starts.
SCRIPT = """
local requests, turn = {}, 0
function init(args)
  for i = 1, COUNT do
    local file = io.open(string.format("FOLDER/%d", i), "rb")
    local headers = {HEADERS}
    requests[i] = wrk.format("POST", "PATH", headers, file:read("*a"))
    file:close()
  end
end
function request()
  turn = turn % COUNT + 1
  return requests[turn]
end
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('FIGURES{"requests": %d, "us": %d, "p50_us": %d, "p99_us": %d, ',
    summary.requests - e.status, summary.duration, latency:percentile(50), latency:percentile(99)))
  io.write(string.format('"failed": %d}\\n', e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def find_wrk() -> str:
    """The path of wrk; without it, this program ends and says what to do."""
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("this needs wrk: `apt-get install wrk` (Debian, Ubuntu) or your packages")
    return found


def write_script(
    folder: Path, bodies: Sequence[bytes], path: str, headers: Mapping[str, str] = OCTETS
) -> Path:
    """The Lua script and the bodies that it sends, below `folder`."""
    for number, body in enumerate(bodies, start=1):
        (folder / str(number)).write_bytes(body)
    text = SCRIPT.replace("COUNT", str(len(bodies))).replace("FOLDER", str(folder))
    pairs = ", ".join(f'["{name}"] = "{value}"' for name, value in headers.items())
    text = text.replace("HEADERS", pairs)
    script = folder / "post.lua"
    script.write_text(text.replace("PATH", path))
    return script


def run_wrk(url: str, script: Path, *, concurrency: int, seconds: float) -> dict[str, float]:
    """Run a closed loop: requests answered, also per second, p50 and p99 in ms, and failures."""
    command = [
        find_wrk(), "-t1", f"-c{concurrency}", f"-d{max(1, round(seconds))}s", "--timeout", "60s",
        "--script", str(script), url,
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, Any] = json.loads(output.rpartition("FIGURES")[2])
    return {
        "requests": found["requests"],
        "requests_per_second": found["requests"] / found["us"] * 1e6,
        "p50_ms": found["p50_us"] / 1000,
        "p99_ms": found["p99_us"] / 1000,
        "failed": found["failed"],
    }
