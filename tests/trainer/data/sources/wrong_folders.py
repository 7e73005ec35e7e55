"""Five folders as people have them, and what the program says: a part of docs/data.md.

`python -m tests.trainer.data.sources.wrong_folders` prints it.
"""

import contextlib
import io
import os
import tempfile
from pathlib import Path

from snapensemble.contracts.errors import InvalidData
from snapensemble.trainer.data.sources.folder import find_folder
from snapensemble.trainer.data.sources.shards import expanded

FOLDERS = {
    "A part under two names": (
        "train/{daisy,rose}/{1..4}.jpg",
        "val/{daisy,rose}/{1..2}.jpg",
        "valid/{daisy,rose}/{1..2}.jpg",
    ),
    "A part that would not be used": (
        "train/{daisy,rose}/{1..4}.jpg",
        "Test_old/{daisy,rose}/{1..2}.jpg",
    ),
    "Parts without classes": ("train/{1..6}.jpg", "test/{1..4}.jpg"),
    "Classes or not": ("fold1/{daisy,rose}/{1..3}.jpg", "fold2/{daisy,rose}/{1..3}.jpg"),
    "An archive from a Mac, with names of its own": (
        "__MACOSX/flowers/._1.jpg",
        "flowers/Training/{daisy,rose}/{1..4}.jfif",
        "flowers/Training/{daisy,rose}/{notes.txt,clip.mov}",
        "flowers/Testing/{daisy,rose}/{1..2}.jpe",
    ),
}


def said(patterns: tuple[str, ...]) -> str:
    """What the program says of a folder `photos` with such files."""
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        for pattern in patterns:
            for name in expanded(pattern):
                file = Path("photos") / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        with contextlib.redirect_stderr(io.StringIO()) as lines:
            try:
                find_folder(Path("photos"))
            except InvalidData as error:
                print(f"snapensemble train: {error}", file=lines)
    return lines.getvalue()


def section() -> str:
    """Each folder and the answer to it, in Markdown."""
    return "\n".join(
        f"**{title}**\n\n```\n"
        + "".join(f"photos{os.sep}{pattern}\n" for pattern in patterns)
        + f"```\n\n```\n{said(patterns)}```\n"
        for title, patterns in FOLDERS.items()
    )


if __name__ == "__main__":
    print(section())  # noqa: T201
