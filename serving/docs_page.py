"""The OpenAPI document as one page of plain HTML, made at start. Pure."""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from snapensemble.serving.page import read_page

Json = dict[str, Any]
REFERENCE = "#/components/schemas/"


def render(document: Json) -> str:
    """The whole page. It needs `serving.page.page_headers` to be allowed its script and style."""
    info = document["info"]
    operations = [
        _operation(document, path, method, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method != "head"
    ]
    schemas = document["components"]["schemas"]
    content = [
        f"<h1>{escape(info['title'])}: the HTTP interface</h1>",
        f'<p class="muted">Version {escape(info["version"])}. For programs: '
        '<a href="/openapi.json">/openapi.json</a>. <a href="/">Choose a picture</a>.</p>',
        *(f"<p>{_words(text)}</p>" for text in info["description"].split("\n\n")),
        *operations,
        "<h2>Objects</h2>",
        *(_schema(name, schema) for name, schema in schemas.items()),
    ]
    return read_page("docs.html").replace("<!-- content -->", "\n".join(content))


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    token = " Needs <code>Authorization: Bearer TOKEN</code>." if "security" in operation else ""
    parameters = [_resolved(document, each) for each in operation["parameters"]]
    body = operation.get("requestBody")
    return "\n".join(
        [
            f'<section id="{escape(operation["operationId"])}">',
            f'<h2><span class="method">{method.upper()}</span> {escape(path)}</h2>',
            f"<p>{_words(operation['summary'])}.{token}</p>",
            "<h3>Parameters</h3>",
            _table(("name", "in", "value", ""), map(_parameter, parameters)),
            *(() if body is None else (_body(body),)),
            "<h3>Answers</h3>",
            _table(("status", "", "body", "headers"), _answers(operation["responses"])),
            _form(path, method, parameters, has_body=body is not None),
            "</section>",
        ]
    )


def _parameter(parameter: Json) -> tuple[str, ...]:
    return (
        f"<code>{escape(parameter['name'])}</code>",
        escape(parameter["in"]),
        _type(parameter["schema"]),
        _words(parameter["description"]),
    )


def _body(body: Json) -> str:
    rows = [
        (f"<code>{escape(media_type)}</code>", _type(content["schema"]))
        for media_type, content in body["content"].items()
    ]
    table = _table(("media type", "body"), rows)
    return f"<h3>Body</h3><p>{_words(body['description'])}</p>{table}"


def _answers(responses: Json) -> Iterable[tuple[str, ...]]:
    for status, response in responses.items():
        bodies = (
            f"<code>{escape(media_type)}</code> {_type(content['schema'])}"
            for media_type, content in response["content"].items()
        )
        headers = "<br>".join(f"<code>{escape(name)}</code>" for name in response["headers"])
        yield escape(status), _words(response["description"]), "<br>".join(bodies), headers


def _form(path: str, method: str, parameters: list[Json], *, has_body: bool) -> str:
    fields = [_field(each) for each in parameters if each["in"] == "query"]
    if has_body:
        fields.insert(0, '<label>picture <input type="file" required accept="image/*"></label>')
    return (
        f'<details><summary>Try it</summary><form data-path="{escape(path)}" '
        f'data-method="{method.upper()}">{"".join(fields)}'
        "<div><button>Send</button></div><pre hidden></pre></form></details>"
    )


def _field(parameter: Json) -> str:
    name, schema = escape(parameter["name"]), parameter["schema"]
    choices = ["true", "false"] if schema.get("type") == "boolean" else schema.get("enum")
    if choices is None:
        return f'<label>{name} <input data-query name="{name}"></label>'
    options = "".join(f"<option>{escape(choice)}</option>" for choice in ["", *choices])
    return f'<label>{name} <select data-query name="{name}">{options}</select></label>'


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(key)}</code>",
            _type(value) + ("" if key in required else ', <span class="muted">optional</span>'),
            _words(value.get("description", "")),
        )
        for key, value in schema["properties"].items()
    ]
    return (
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code> '
        f"{_words(schema.get('description', ''))}</summary>"
        f"{_table(('name', 'value', ''), rows)}</details>"
    )


def _type(schema: Json) -> str:
    """A schema in a few words, with a link to the object that it names."""
    if "$ref" in schema:
        name = escape(schema["$ref"].removeprefix(REFERENCE))
        return f'<a href="#{name}">{name}</a>'
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(map(_type, schema[choice]))
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        words = " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    elif schema.get("type") == "array":
        words = f"list of {_type(schema['items'])}"
    elif "properties" in schema:
        members = (f"<code>{escape(k)}</code>: {_type(v)}" for k, v in schema["properties"].items())
        words = f"{schema['type']} with {', '.join(members)}"
    else:
        words = escape(str(schema.get("format", schema.get("type", "anything"))))
    bounds = [
        f"{sign} {schema[key]:,}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", "&gt;"),
            ("maximum", "≤"), ("exclusiveMaximum", "&lt;"),
        )
        if key in schema
    ]  # fmt: skip
    if schema.get("default") is not None:
        bounds.append(f"default {escape(json.dumps(schema['default']))}")
    return ", ".join([words, *bounds])


def _resolved(document: Json, node: Json) -> Json:
    found: Json = node
    if "$ref" in node:
        found = document
        for name in node["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return found


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{heads}</tr>{body}</table></div>'


def _words(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))
