"""Plausible and implausible cameras."""

from __future__ import annotations

import numpy as np
import pytest

from bev_training.inspection.calibration_checks import (
    AXIS,
    CENTRE,
    FOCAL,
    MOUNT,
    TWINS,
    VIEW,
    check_intrinsics,
    check_mounting,
    view_deg,
)
from test.factories import look, make_camera, make_rig


@pytest.mark.parametrize('fov_deg', [20.0, 70.0, 120.0])
def test_field_of_view_of_a_pinhole(fov_deg):
    assert view_deg(make_camera((640, 480), fov_deg=fov_deg)) == pytest.approx(fov_deg, abs=1e-6)


def test_field_of_view_beyond_180_degrees():
    f = 320 / np.radians(95)
    K = np.array([[f, 0, 319.5], [0, f, 239.5], [0, 0, 1]])
    wide = make_camera((640, 480), K=K, model='equidistant', D=(0.0,) * 4)
    assert view_deg(wide) == pytest.approx(190, abs=0.1)
    assert check_intrinsics(wide) == []


def checks_of(**changes) -> list[str]:
    K = np.array(make_camera((640, 480)).K)
    for (row, column), value in changes.pop('K', {}).items():
        K[row, column] = value
    return [check for check, _ in check_intrinsics(make_camera((640, 480), K=K, **changes))]


def test_intrinsics():
    f = make_camera((640, 480)).K[0, 0]
    assert checks_of() == []
    assert checks_of(K={(0, 0): 1.15 * f}) == []
    assert checks_of(K={(0, 0): 1.3 * f}) == [FOCAL]
    assert checks_of(K={(0, 2): 100}) == [CENTRE]
    assert checks_of(K={(1, 2): 400}) == [CENTRE]
    assert checks_of(K={(0, 0): 9000, (1, 1): 9000}) == [VIEW]


def test_mounting():
    rig = {name: pose for name, (_, pose) in make_rig().items()}
    assert check_mounting(rig) == []

    def checks(**poses) -> list[tuple[str, str]]:
        return [(check, name) for check, name, _ in check_mounting({**rig, **poses})]

    assert checks(front=look(at=(1500, 0, 1600))) == [(MOUNT, 'front')]
    assert checks(front=look(at=(1, 0, -1.6))) == [(MOUNT, 'front')]
    assert checks(front=rig['back']) == [(TWINS, 'back')]
    body = np.eye(4)
    body[2, 3] = 1.5
    assert checks(front=body) == [(AXIS, 'front')]
    assert checks(front=look(pitch_deg=45.0)) == []  # fisheyes look down
    assert checks(front=look(pitch_deg=80.0)) == []  # so do cameras for parking
    assert checks(front=look(pitch_deg=89.0)) == [(AXIS, 'front')]
    assert checks(front=look(pitch_deg=-70.0)) == [(AXIS, 'front')]  # nothing is up there
    assert checks(front=look(at=(9, 0, 3))) == []  # a bus
