"""The errors that a user can do something about: the command line prints them and exits with 2."""

import re
from collections.abc import Callable, Mapping


class SnapensembleError(Exception):
    """An error that says what was found, what was expected and, if it helps, what to do."""


def message_of(error: BaseException) -> str:
    """The message, followed by the notes of the code that the error passed through."""
    return ": ".join([str(error), *getattr(error, "__notes__", [])])


class MemoryLacking(SnapensembleError):
    """There is too little memory on the machine or the device for what was asked."""


def memory_lacking(error: BaseException) -> MemoryLacking | None:
    """What a user gets to read if an error says that memory is lacking; else None.

    torch has a type of its own for that on a device, and only words on the processor.
    """
    said = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2]
    if not (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in said
    ):
        return None
    lacking = MemoryLacking(f"there is too little memory{said and ': '}{said}")
    for note in getattr(error, "__notes__", []):
        lacking.add_note(note)
    return lacking


class InvalidConfig(SnapensembleError, ValueError):
    """A setting, or a combination of settings, that cannot work."""


class Misfit(InvalidConfig):
    """Settings that do not fit together, before it is known what the user calls them.

    Args:
        text: the message, where `{name}` stands for a setting's name and values are numbers only.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        super().__init__(self.said(str))

    def said(self, word: Callable[[str], str]) -> str:
        """The message with the names that `word` gives to settings."""
        return re.sub(r"{(\w+)}", lambda found: word(found[1]), self._text)

    def renamed(self, names: Mapping[str, str]) -> "Misfit":
        """The same error with the names that the settings have elsewhere."""
        return Misfit(self.said(lambda name: f"{{{names.get(name, name)}}}"))


class InvalidData(SnapensembleError):
    """A data set that is absent, damaged, or too small to train on."""


class InvalidManifest(SnapensembleError):
    """A run or bundle directory that does not hold what its manifest says."""


class WriteFailed(SnapensembleError):
    """A file could not be written; whatever was complete before is still whole."""


class InvalidImage(SnapensembleError):
    """Bytes that are not a picture this product reads."""


class ImageTooLarge(InvalidImage):
    """A picture with more pixels than allowed; it is refused by its header, before decoding."""


class ImageTooCostly(InvalidImage):
    """A picture that would take far more time or memory than its pixels are worth."""


class TakesTime(SnapensembleError):
    """A picture within all limits that takes more time than the caller has; decode it elsewhere."""

    def __init__(self, seconds: float, memory: int) -> None:
        super().__init__(f"the image takes about {seconds:.1f} s to decode")
        self.seconds = seconds
        self.memory = memory
