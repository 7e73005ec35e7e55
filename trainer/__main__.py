"""`python -m trainer`, for torchrun to start; `snapensemble.trainer.torchrun` does it."""

import os
import sys

# With -m Python looks for modules in the current directory first, where a folder of images may be
# called `contracts`. A checkout that is not installed is found there alone.
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(  # noqa: PTH120 # pathlib may be there
    os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
):
    del sys.path[0]

from snapensemble.trainer.distributed import leave
from snapensemble.trainer.torchrun import main

if __name__ == "__main__":
    leave(main())
