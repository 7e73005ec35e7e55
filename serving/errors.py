"""The errors of requests, in the words of the server's work and not of HTTP."""

from snapensemble.contracts.errors import InvalidImage, SnapensembleError


class ServingError(SnapensembleError):
    """The request gets no prediction."""


class Unauthorized(ServingError):
    """The request carries no token, or a wrong one."""


class UnknownModel(ServingError):
    """No model of this name, or of this version, is served."""


class ControlDisabled(ServingError):
    """Clients may not load and unload models here."""


class LoadFailed(ServingError):
    """What is on disk of a model cannot be served; what was served is served still."""


class WorkersLate(ServingError):
    """Not all workers have followed a change of what is served in time."""


class EmptyBody(ServingError):
    """The body is empty, or a form without a file."""


class BodyTooLarge(ServingError):
    """The body has more bytes than one request may have."""


class BodyTimeout(ServingError):
    """The sender took too long to send the body."""


class MalformedBody(ServingError):
    """The body is not what its media type says."""


class InvalidTensor(ServingError):
    """The tensors of a request are not those that the model takes and gives."""


class UnsupportedMediaType(ServingError):
    """The media type is none of those that carry images."""


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is packed in a way that is not read here."""

    def __init__(self, message: str, accepted: tuple[str, ...]) -> None:
        super().__init__(message)
        self.accepted = accepted


class TooManyImages(ServingError):
    """The request has more images than one may have."""


class InvalidParameter(ServingError):
    """A query parameter cannot be granted."""


class NotExplainable(ServingError):
    """The bundle cannot say where in an image the evidence for a class is."""


class Overloaded(ServingError):
    """The answer would come too late, so the request was not accepted."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Stopping(ServingError):
    """The server is shutting down and accepts nothing new."""


class MemberFailing(ServingError):
    """A member has failed again and again, so this is not the ensemble that was promised."""


class DeadlineExceeded(ServingError):
    """The client's deadline passed before the members had answered."""


class InferenceFailed(ServingError):
    """A member raised an error, or gave values that are no numbers."""

    @classmethod
    def caused_by(cls, error: Exception, what: str) -> "InferenceFailed":
        """Make the error that a client may see of a defect, with the defect itself for the log."""
        failure = cls(f"{what}; see the server's log")
        failure.__cause__ = error
        return failure


class BadImageInRequest(ServingError):
    """One image of a request is not readable; the message says which one."""

    def __init__(self, index: int, count: int, reason: InvalidImage) -> None:
        where = f"image {index} of {count} (counted from 0): " if count > 1 else ""
        super().__init__(f"{where}{reason}")
        self.reason = reason
