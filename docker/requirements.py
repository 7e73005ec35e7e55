"""Print what extras of pyproject.toml need, one requirement a line, without the project itself.

    python docker/requirements.py train serving

With this list, an image has the packages in a layer of their own.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
extras = [line for name in sys.argv[1:] for line in project["optional-dependencies"][name]]
print(*project["dependencies"], *extras, sep="\n")
