"""JSON schemas as pydantic makes them -> as the OpenAPI document wants them."""

from typing import Any, TypeVar

EXAMPLE = {
    "predictions": [
        {
            "class": "cat",
            "index": 1,
            "probability": 0.91,
            "top": [
                {"class": "cat", "index": 1, "probability": 0.91},
                {"class": "ant", "index": 0, "probability": 0.09},
            ],
            "probabilities": [0.09, 0.91],
            "uncertainty": {"entropy_nats": 0.3, "disagreement_nats": 0.02},
            "members_used": 5,
        }
    ],
    "model": {"name": "animals", "version": "9f2c1e7a"},
}
Node = TypeVar("Node")


def plain(node: Node) -> Node:
    """Without titles that repeat names, and open to members that later versions add."""
    if isinstance(node, list):
        return [plain(item) for item in node]  # type: ignore[return-value]
    if not isinstance(node, dict):
        return node
    return {  # type: ignore[return-value]
        name: plain(value)
        for name, value in node.items()
        # A property may be called title, too; its value is no string.
        if not (name == "title" and isinstance(value, str))
        and not (name == "additionalProperties" and value is False)
    }


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """An object whose optional members are absent where they have no value, never null."""
    properties = {name: _not_null(value) for name, value in schema["properties"].items()}
    return {**schema, "properties": properties}


def _not_null(value: dict[str, Any]) -> dict[str, Any]:
    rest = {k: v for k, v in value.items() if k != "title" and (k, v) != ("default", None)}
    choices = [choice for choice in rest.pop("anyOf", []) if choice != {"type": "null"}]
    (choice,) = choices or [{}]
    return {**choice, **rest}
