"""Numbers of single bits, as the headers of AV1 and HEVC data have them."""


class Bits:
    """Reads numbers from the bits of a header; beyond its end are zeros, as for dav1d."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        """The next `count` bits, the highest first."""
        self._left -= count
        shifted = self._number >> self._left if self._left >= 0 else self._number << -self._left
        return shifted & ((1 << count) - 1)

    def golomb(self) -> int:
        """A number with as many leading zeros as it has bits behind its first one."""
        zeros = 0
        while zeros < 32 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros)
