"""How far predicted waits can be trusted: as far as earlier ones came out."""

MEMORY = 32  # micro-batches
DEVIATIONS = 4.0
MOST = 2.0
SAYS_LITTLE = 0.25  # of the longest wait that is accepted: below it other things count


class Forecast:
    """Corrects predicted waits upwards, so that nearly all requests are answered in time.

    A queue that is kept as long as is allowed would keep half of the requests waiting for longer.
    The correction is that of TCP's retransmission timer (RFC 6298, section 2): a smoothed mean, and
    a multiple of the smoothed deviation from it; here of waits as parts of what was predicted.

    Args:
        max_wait_s: the longest that is accepted.
        memory: micro-batches after which a wait counts for a third.
    """

    def __init__(self, max_wait_s: float, *, memory: int = MEMORY) -> None:
        self._max_wait_s = max_wait_s
        self._memory = memory
        self._mean = 1.0
        self._deviation = 0.0

    def came_out(self, predicted_s: float, waited_s: float) -> None:
        """Learn from an image that is answered."""
        if predicted_s <= SAYS_LITTLE * self._max_wait_s:
            return
        error = min(waited_s / predicted_s, MOST) - self._mean
        self._deviation += (abs(error) - self._deviation) / self._memory
        self._mean += error / self._memory

    def corrected(self, predicted_s: float) -> float:
        """A wait that few will exceed; at most twice the predicted one."""
        factor = self._mean + DEVIATIONS * self._deviation
        return predicted_s * min(max(1.0, factor), MOST)
