"""Print what an extra of pyproject.toml needs, one requirement a line, without the project itself.

    python docker/requirements.py serving

So an image has the packages in a layer of their own.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
print(*project["dependencies"], *project["optional-dependencies"][sys.argv[1]], sep="\n")
