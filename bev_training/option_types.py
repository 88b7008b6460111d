"""Kinds of values on the command line, for argparse's `type=`."""

from __future__ import annotations

from argparse import ArgumentTypeError


def count(text: str) -> int:
    """Read a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f'{text!r} is no number above zero')
    return int(text)


def whole(text: str) -> int:
    """Read a whole number, zero too."""
    if not text.isdecimal():
        raise ArgumentTypeError(f'{text!r} is no whole number')
    return int(text)


def size_px(text: str) -> tuple[int, int]:
    """Read WxH."""
    width, cross, height = text.lower().partition('x')
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ArgumentTypeError(f'{text!r} is no size such as 1600x900')
    return int(width), int(height)


def names(text: str) -> tuple[str, ...]:
    """Read NAME,NAME,..."""
    found = tuple(name.strip() for name in text.split(','))
    if '' in found:
        raise ArgumentTypeError(f'{text!r} is no list such as front,left,right')
    return found


def numbers(text: str) -> tuple[int, ...]:
    """Read N,N,..."""
    return tuple(whole(name) for name in names(text))


def pair(text: str) -> tuple[str, str]:
    """Read NAME=VALUE."""
    name, equals, value = text.partition('=')
    if not (name and equals and value):
        raise ArgumentTypeError(f'{text!r} is not like NAME=VALUE')
    return name, value


def named_or_not(text: str) -> tuple[str, str]:
    """Read NAME=VALUE, or VALUE, which has the name ''."""
    return pair(text) if '=' in text else ('', text)


def seconds_by_name(text: str) -> dict[str, float]:
    """Read NAME=S,NAME=S,..."""
    found: dict[str, float] = {}
    for each in text.split(','):
        name, equals, value = each.strip().partition('=')
        try:
            if not (name and equals) or name in found:
                raise ValueError
            found[name] = float(value)
        except ValueError:
            raise ArgumentTypeError(f'{text!r} is not like front=0,left=0.025') from None
    return found
