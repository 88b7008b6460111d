"""Fixtures of the message tests."""

from __future__ import annotations

import pytest

from bev_perception import images


@pytest.fixture(params=['simplejpeg', 'opencv'])
def decoder(request, monkeypatch):
    """Run with each JPEG decoder."""
    if request.param == 'opencv':
        monkeypatch.setattr(images, '_simplejpeg', None)
    else:
        pytest.importorskip('simplejpeg')
    return request.param
