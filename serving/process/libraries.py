"""What this process asks of the libraries that read what clients send, once, when it starts.

They keep quiet: any client could fill the log with their messages about damaged pictures, forms and
calls (one TIFF of a few kilobytes makes libtiff print 27 of them, and gRPC writes four letters for
each byte that is no text), and what a client has to know of its request is in its answer. Memory
for large pictures goes back to the system.
"""

import contextlib
import ctypes
import logging
import os
import warnings

from PIL import _imaging

LOGGERS = ("PIL", "python_multipart", "grpc")
GRPC_LEVEL = "GRPC_VERBOSITY"  # read by its part in C when it is loaded
SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
LARGE = 2**20  # bytes from which a block of memory is mapped by itself
log = logging.getLogger("snapensemble")


def silence_libraries() -> None:
    """Silence them in the whole process, for good, before others are loaded or threads decode.

    Whoever has set in the environment what gRPC prints has decided.
    """
    os.environ.setdefault(GRPC_LEVEL, "NONE")
    warnings.filterwarnings("ignore", module="PIL")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # libtiff prints from C and Pillow offers no way to stop it. The handle of Pillow's own module
    # finds what that is linked with (POSIX dlsym), wherever the file lies and however it is named.
    library = ctypes.CDLL(_imaging.__file__)
    for name in SETTERS:
        try:
            setter = getattr(library, name)
        except AttributeError:  # linked in another way, or not at all
            log.warning("what libtiff prints about damaged TIFF files will be on stderr")
            return
        setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
        setter(None)  # without a handler libtiff prints nothing


def give_large_blocks_back() -> None:
    """Keep glibc from raising the size from which a block is mapped by itself, up to 32 MiB.

    It does that when the first large block is freed. From then on decoded pictures lie between
    small blocks that live longer, and what they leave cannot be given back. Other C libraries
    have no such setting; whoever has set it in the environment has decided.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)
