"""Keeps what decoders say about damaged pictures and forms out of the log.

Any client could fill it otherwise: one TIFF of a few kilobytes makes libtiff print 27 of them. What
a client has to know of its request is in its answer.
"""

import ctypes
import logging
import warnings

from PIL import _imaging

LOGGERS = ("PIL", "python_multipart")
SETTERS = ("TIFFSetErrorHandler", "TIFFSetWarningHandler")
log = logging.getLogger("snapensemble")


def silence_decoders() -> None:
    """For the whole process, and for good; before other threads decode."""
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
        setter(None)  # no handler: libtiff says nothing
