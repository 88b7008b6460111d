"""Notices lost pictures of an H.264 stream, which decoders paper over without a word.

A recorder that drops a message leaves a stream whose next pictures refer to one that is not
there. FFmpeg then takes an older picture and goes on, smeared until the next key picture. The
number that every H.264 picture carries (`frame_num`) tells. H.265 needs no such help: its decoder
names the missing picture.

Source: ITU-T H.264, 7.3.2.1.1 (sequence parameters), 7.3.3 (slice header), 7.4.3 (frame_num).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_START = re.compile(b'\x00\x00\x01')
_SLICE, _IDR_SLICE, _SEQUENCE = 1, 5, 7  # nal_unit_type
# Profiles whose sequence parameters describe the colour format.
_COLOUR_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)
_HEADER_BYTES = 64  # more than what is read of a unit


class GapFinder:
    """Follows `frame_num` through the packets of one H.264 stream."""

    def __init__(self) -> None:
        """Know nothing until the first sequence parameters."""
        self._number_bits: int | None = None
        self._plane_bits = 0
        self._last: int | None = None  # of the last picture that others may refer to

    def push(self, data: bytes) -> bool:
        """Take in one packet; return whether pictures between it and the last one are lost.

        Lost pictures that no other refers to are not seen, and do no harm.
        """
        for unit in _units(data):
            kind, is_reference = unit[0] & 31, bool(unit[0] & 0x60)
            if kind == _SEQUENCE:
                self._read_sequence(unit)
            elif kind in (_SLICE, _IDR_SLICE):
                return self._read_slice(unit, kind == _IDR_SLICE, is_reference)
        return False

    def _read_sequence(self, unit: bytes) -> None:
        self._number_bits, self._plane_bits = None, 0
        bits = _Bits(unit[1:])
        profile = bits.read(8)
        bits.read(16)  # constraints, level
        bits.exp_golomb()  # id
        if profile in _COLOUR_PROFILES:
            if bits.exp_golomb() == 3:  # 4:4:4
                self._plane_bits = 2 * bits.read(1)
            bits.exp_golomb()  # luma depth
            bits.exp_golomb()  # chroma depth
            bits.read(1)
            if bits.read(1):  # scaling lists; no camera's encoder writes them
                return
        number_bits = bits.exp_golomb() + 4
        order_kind = bits.exp_golomb()
        if order_kind == 0:
            bits.exp_golomb()
        elif order_kind == 1:  # a cycle of offsets; no camera's encoder writes it
            return
        bits.exp_golomb()  # number of reference pictures
        if not bits.read(1) and number_bits <= 16:  # else gaps are allowed: temporal layers
            self._number_bits = number_bits

    def _read_slice(self, unit: bytes, is_key: bool, is_reference: bool) -> bool:
        if self._number_bits is None:
            return False
        bits = _Bits(unit[1:])
        for _ in range(3):  # first macroblock, kind of slice, id of the picture parameters
            bits.exp_golomb()
        bits.read(self._plane_bits)
        number, last = bits.read(self._number_bits), self._last
        if is_reference:
            self._last = number
        if is_key or last is None:
            return False
        return number not in (last, (last + 1) % (1 << self._number_bits))


class _Bits:
    """Reads a unit's first bits; zeros beyond its end."""

    def __init__(self, data: bytes) -> None:
        # 00 00 03 stands for 00 00 within a unit.
        plain = data[:_HEADER_BYTES].replace(b'\0\0\3', b'\0\0')
        self._text = ''.join(f'{byte:08b}' for byte in plain)
        self._at = 0

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        text = self._text[self._at : self._at + count]
        self._at += count
        return int(text.ljust(count, '0') or '0', 2)

    def exp_golomb(self) -> int:
        """Return the next ue(v): n zeros, a one, n bits."""
        one = self._text.find('1', self._at)
        if one < 0:
            return 0
        zeros, self._at = one - self._at, one + 1
        return (1 << zeros) - 1 + self.read(zeros)


def _units(data: bytes) -> Iterator[bytes]:
    """Yield the beginning of every unit of an Annex B stream."""
    for match in _START.finditer(data):
        unit = data[match.end() : match.end() + _HEADER_BYTES]
        if unit:
            yield unit
