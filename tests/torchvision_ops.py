"""timm in tests, also where torchvision was built for another torch than the one installed."""

import sys
from types import ModuleType

import torch

LIBRARIES: list[torch.library.Library] = []  # they go with the last reference to them


def import_timm() -> ModuleType:
    """timm; if torchvision lacks its compiled operators, with empty ones, which no test calls."""
    try:
        import timm
    except RuntimeError as error:
        assert "torchvision::" in str(error)
        # torch says nothing of the types of its libraries.
        library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(  # type: ignore[no-untyped-call]
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        LIBRARIES.append(library)
        for name in [n for n in sys.modules if n.partition(".")[0] in ("timm", "torchvision")]:
            del sys.modules[name]
        import timm
    return timm
