"""The names that people give to the parts of a data set."""

import re
import unicodedata
from typing import Literal

Part = Literal["train", "val", "test"]
WORDS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "eval"),
}
_PART_OF: dict[str, Part] = {word: part for part, words in WORDS.items() for word in words}
_INSIDE = re.compile(
    rf"(?:^|[\W\d_])({'|'.join(_PART_OF)})(?:[\W_]?(?:set|data|split|images?|imgs?|pictures))?(?:$|[\W\d_])"
)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
EXPECTED = " or ".join("|".join(words) for words in WORDS.values())


def composed(name: str) -> str:
    """The name with each accented letter as one character (Unicode's NFC), as most systems do.

    macOS's archives have a letter and an accent instead (NFD), which looks the same.
    """
    return unicodedata.normalize("NFC", name)


def part_called(name: str) -> Part | None:
    """The part of a data set that has this name, in any case; None if it is no such name."""
    return _PART_OF.get(composed(name).strip().casefold())


def part_in(name: str) -> Part | None:
    """The part that a word of the name means, as in Train_set, test2 or flowers-val-0001.

    None if no word does, or if words mean different parts.
    """
    words = _CAMEL.sub("_", composed(name)).casefold()
    # Matches may share the character between them.
    found = {_PART_OF[match[1]] for at in range(len(words)) if (match := _INSIDE.match(words, at))}
    return found.pop() if len(found) == 1 else None
