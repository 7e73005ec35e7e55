"""Text that others chose, such as names of classes, made safe to show. Pure.

A terminal obeys control characters: they move the cursor, change its title, hide what was printed
or send keys back. Marks for right-to-left writing show a name in another order than it has.
"""

import json


def printable(text: str) -> str:
    r"""One line of characters that show as what they are; others as `\x1b` or `\u202e`.

    Others are controls, marks, surrogates, what Unicode has not assigned, and all spaces but one.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def printable_lines(text: str) -> str:
    """The same of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(text: str) -> str:
    r"""A JSON document that says the same, with such characters as `\u001b`."""
    return "".join(
        each if each == "\n" or each.isprintable() else json.dumps(each)[1:-1] for each in text
    )
