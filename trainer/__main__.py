"""`python -m snapensemble.trainer`, for torchrun to start; `torchrun.main` does it."""

import os
import sys

# With -m Python looks for modules in the current directory first, which may hold any. A checkout
# that is not installed is found there alone.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 # pathlib may be there
if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(_HERE)):  # noqa: PTH120
    del sys.path[0]

from snapensemble.trainer.distributed import leave  # noqa: E402 # see above
from snapensemble.trainer.torchrun import main  # noqa: E402

if __name__ == "__main__":
    leave(main())
