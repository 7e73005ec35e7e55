"""Every platform's requests, as its clients or its documents have them, to a server process."""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from snapensemble.server_process import server_process
from tests.conformance.conftest import Run
from tests.factories import encoded, make_cascade_bundle, picture
from tests.serving.http.nginx import needs_nginx, nginx

ROUTES = {
    "AIP_HEALTH_ROUTE": "/v1/endpoints/12/deployedModels/34",
    "AIP_PREDICT_ROUTE": "/v1/endpoints/12/deployedModels/34:predict",
}
MODEL = "/v1/models/insects"
TOLERANCE = 1e-6


class Served(NamedTuple):
    """A server, what it is asked about, and what `POST /predict` answers."""

    http: httpx.Client
    url: str
    pictures: list[Path]
    texts: list[str]
    expected: list[dict[str, float]]  # by class, in descending order


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("platforms")
    bundle_dir = make_cascade_bundle(directory / "bundle")
    pictures = [directory / f"{seed}.png" for seed in range(3)]
    for seed, file in enumerate(pictures):
        file.write_bytes(encoded(picture(seed)))
    texts = [base64.b64encode(file.read_bytes()).decode() for file in pictures]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ROUTES.items():
            patch.setenv(name, value)
        with (
            server_process(bundle_dir, "--port", "0") as (_, url),
            httpx.Client(base_url=url, timeout=30) as http,
        ):
            answer = http.post("/predict", json={"images": texts})
            yield Served(http, url, pictures, texts, by_class(answer.json()["predictions"]))


def by_class(predictions: list[dict[str, Any]]) -> list[dict[str, float]]:
    return [{top["class"]: top["probability"] for top in each["top"]} for each in predictions]


def is_expected(found: list[dict[str, float]], served: Served) -> None:
    """Refuse other numbers than those of `POST /predict`, or another order."""
    expected = served.expected[: len(found)]
    assert found == [pytest.approx(each, abs=TOLERANCE, rel=0) for each in expected]
    assert [[*each] for each in found] == [[*each] for each in expected]


def program(name: str) -> str:
    """The place of a program; without it the test is skipped, and says so."""
    place = shutil.which(name)
    if place is None:
        pytest.skip(f"{name} was NOT TRIED, as it is not installed here")
    return place


def ran(*command: object, **more: Any) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=60, **more)
    assert done.returncode == 0, done.stderr
    printed: str = done.stdout.decode()
    return printed


def test_sagemaker_real_time(served: Served) -> None:
    assert served.http.get("/ping").status_code == 200
    for file in served.pictures[:1]:
        for media_type in ("image/png", "application/x-image", "application/octet-stream"):
            headers = {"content-type": media_type, "x-amzn-sagemaker-custom-attributes": "a=b"}
            reply = served.http.post("/invocations", content=file.read_bytes(), headers=headers)
            is_expected(by_class(reply.json()["predictions"]), served)


def test_sagemaker_batch_transform(served: Served) -> None:
    how = served.http.get("/execution-parameters").json()
    assert how.keys() == {"MaxConcurrentTransforms", "BatchStrategy", "MaxPayloadInMB"}
    assert how["MaxConcurrentTransforms"] * how["MaxPayloadInMB"] <= 100
    for place, file in enumerate(served.pictures):
        headers = {"content-type": "application/x-image"}
        reply = served.http.post("/invocations", content=file.read_bytes(), headers=headers)
        (found,) = by_class(reply.json()["predictions"])
        assert found == pytest.approx(served.expected[place], abs=TOLERANCE)


def test_mlflow(served: Served, run: Run) -> None:
    found = run("mlflow_client", served.url, *served.pictures)
    is_expected(by_class(found["table"]), served)
    assert all(len(each["top"]) == 1 for each in found["top"])
    assert "error code 400" in found["refusal"] and "BAD_REQUEST" in found["refusal"]


def test_mlflow_requests(served: Served) -> None:
    for document in (
        {"instances": served.texts},
        {"inputs": served.texts},
        {"dataframe_split": {"columns": ["image"], "data": [[each] for each in served.texts]}},
        {"dataframe_records": [{"image": each} for each in served.texts], "params": {"top": 3}},
    ):
        reply = served.http.post("/invocations", json=document)
        is_expected(by_class(reply.json()["predictions"]), served)


def test_vertex_predict(served: Served) -> None:
    assert served.http.get(ROUTES["AIP_HEALTH_ROUTE"]).status_code == 200
    instances = [{"b64": each} for each in served.texts]
    document = {"instances": instances, "parameters": {"top": 3}}
    reply = served.http.post(ROUTES["AIP_PREDICT_ROUTE"], json=document)
    assert [*reply.json()] == ["predictions"]
    is_expected(by_class(reply.json()["predictions"]), served)


def test_vertex_raw_predict(served: Served) -> None:
    content = served.pictures[0].read_bytes()
    headers = {"content-type": "image/png"}
    reply = served.http.post(ROUTES["AIP_PREDICT_ROUTE"], content=content, headers=headers)
    is_expected(by_class(reply.json()["predictions"]), served)


def test_kserve_v1(served: Served) -> None:
    assert served.http.get("/v1/models").json() == {"models": ["insects"]}
    assert served.http.get(MODEL).json()["ready"] is True
    instances = [{"image_bytes": {"b64": each}} for each in served.texts]
    reply = served.http.post(f"{MODEL}:predict", json={"instances": instances})
    is_expected(by_class(reply.json()["predictions"]), served)
    wrong = served.http.post("/v1/models/nobody:predict", json={"instances": instances})
    assert wrong.status_code == 404 and [*wrong.json()] == ["error"]


def test_tensorflow_serving(served: Served) -> None:
    (status,) = served.http.get(f"{MODEL}/versions/0badcafe").json()["model_version_status"]
    assert status["state"] == "AVAILABLE" and status["status"]["error_code"] == "OK"
    instances = [{"b64": each} for each in served.texts]
    rows = served.http.post(
        f"{MODEL}/versions/0badcafe:predict",
        json={"signature_name": "serving_default", "instances": instances},
    )
    is_expected(by_class(rows.json()["predictions"]), served)
    columns = served.http.post(f"{MODEL}:predict", json={"inputs": instances}).json()["outputs"]
    assert columns["class"] == [next(iter(each)) for each in served.expected]
    examples = [{"image/encoded": {"b64": each}} for each in served.texts]
    results = served.http.post(f"{MODEL}/labels/stable:classify", json={"examples": examples})
    is_expected([dict(each) for each in results.json()["results"]], served)


def test_hugging_face(served: Served, run: Run) -> None:
    found = run("huggingface_client", served.url, *served.pictures)
    for way in ("path", "bytes", "aio"):
        is_expected([dict(each) for each in found[way]], served)
    assert len(found["top"]) == 2
    status, message = found["refusal"]
    assert status == 422 and "expected 'softmax'" in message


def test_hugging_face_requests(served: Served) -> None:
    document = {"inputs": served.texts[0], "parameters": {"top_k": 3}}
    for body in ({"json": document}, {"content": served.pictures[0].read_bytes()}):
        reply = served.http.post("/", **body)
        is_expected([{each["label"]: each["score"] for each in reply.json()}], served)


def test_torchserve(served: Served) -> None:
    assert served.http.get("/ping").json() == {"status": "Healthy"}
    assert served.http.get("/models").json()["models"][0]["modelName"] == "insects"
    content = served.pictures[0].read_bytes()
    for body in ({"content": content}, {"files": {"data": content}}):
        is_expected([served.http.post("/predictions/insects", **body).json()], served)


def test_azure_ml_asks_as_its_deployment_says(served: Served) -> None:
    import yaml

    file = Path(__file__).parents[2] / "docker" / "azureml" / "deployment.yaml"
    routes = yaml.safe_load(file.read_text())["environment"]["inference_config"]
    for probe in ("liveness_route", "readiness_route"):
        assert served.http.get(routes[probe]["path"]).status_code == 200
    document = {"images": served.texts}
    reply = served.http.post(routes["scoring_route"]["path"], json=document)
    is_expected(by_class(reply.json()["predictions"]), served)


def test_cloud_run_says_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "0")
    with server_process(make_cascade_bundle(tmp_path / "bundle")) as (_, url):
        assert not url.endswith(":8000") and httpx.get(f"{url}/health/ready").status_code == 200


def test_curl(served: Served) -> None:
    curl, file = program("curl"), served.pictures[0]
    image = ["-H", "Content-Type: image/png", "--data-binary", f"@{file}"]
    for arguments, path in (
        (image, "/predict"),
        (["-F", f"image=@{file}"], "/predict"),
        (["--data-binary", f"@{file}"], "/invocations"),
    ):
        answer = json.loads(ran(curl, "-sf", *arguments, f"{served.url}{path}"))
        is_expected(by_class(answer["predictions"]), served)
    put = json.loads(ran(curl, "-sf", "-T", file, f"{served.url}/predictions/insects"))
    is_expected([put], served)
    document = json.dumps({"instances": [{"b64": served.texts[0]}]})
    rows = json.loads(ran(curl, "-sf", "-d", document, f"{served.url}{MODEL}:predict"))
    is_expected(by_class(rows["predictions"]), served)


SCRIPT = """
const fs = require("fs");
const [url, file] = process.argv.slice(2);
const picture = fs.readFileSync(file);
const form = new FormData();
form.append("image", new Blob([picture], {type: "image/png"}));
const b64 = picture.toString("base64");
const json = {method: "POST", headers: {"content-type": "application/json"}};
const asked = [
  fetch(url + "/predict", {method: "POST", headers: {"content-type": "image/png"}, body: picture}),
  fetch(url + "/predict", {method: "POST", body: form}),
  fetch(url + "/predict", {...json, body: JSON.stringify({images: [b64]})}),
  fetch(url + "/v1/models/insects:predict", {...json, body: JSON.stringify({instances: [{b64}]})}),
];
Promise.all(asked.map((each) => each.then((reply) => reply.json()))).then((replies) =>
  console.log(JSON.stringify(replies.map((reply) => reply.predictions))));
"""


def test_fetch_of_node(served: Served, tmp_path: Path) -> None:
    script = tmp_path / "ask.cjs"
    script.write_text(SCRIPT)
    replies = json.loads(ran(program("node"), script, served.url, served.pictures[0]))
    assert len(replies) == 4
    for predictions in replies:
        is_expected(by_class(predictions), served)


@needs_nginx
def test_nginx_with_a_prefix(served: Served) -> None:
    location = f"location /photos/ {{ proxy_pass {served.url}/; }}"
    with tempfile.TemporaryDirectory() as name, nginx(Path(name), location) as http:
        assert http.get("/photos/").status_code == 200
        for path, place in (("predict", "images"), ("invocations", "instances")):
            reply = http.post(f"/photos/{path}", json={place: served.texts})
            is_expected(by_class(reply.json()["predictions"]), served)
