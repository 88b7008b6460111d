"""What bad input gets of data sets in nuScenes' format: one line, and nothing half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from bev_perception.errors import BagError, ConfigError, MessageError
from bev_perception.geometry.grid import BevGrid
from bev_training.data.array_file import ArrayFile
from bev_training.data.label_classes import AREAS, OBJECTS
from bev_training.data.nuscenes_samples import NuscenesSamples, open_nuscenes

pytest.importorskip('nuscenes', reason='needs requirements/nuscenes.txt')
GRID = BevGrid()


def test_map_is_asked_for_only_by_map_classes(nuscenes_copy: Path, tmp_path: Path) -> None:
    (nuscenes_copy / 'maps').unlink()
    (nuscenes_copy / 'maps').mkdir()
    for record in json.loads((nuscenes_copy / 'v1.0-mini/map.json').read_text()):
        (nuscenes_copy / record['filename']).write_bytes(b'')  # the devkit wants it to be there
    objects = open_nuscenes(nuscenes_copy, classes=OBJECTS, grid=GRID, cache=tmp_path)
    labels = objects.labels(0)
    assert labels.positive.shape[0] == 2
    assert labels.positive[0].any()
    with pytest.raises(BagError) as caught:
        open_nuscenes(nuscenes_copy, classes=('vehicle', 'divider'), grid=GRID, cache=tmp_path)
    message = str(caught.value)
    assert f'{nuscenes_copy}/maps/expansion/singapore-onenorth.json is missing' in message
    assert 'map expansion v1.3' in message
    assert message.endswith(f'unzip it into {nuscenes_copy}/maps')


def test_unusable_map_is_one_line(nuscenes_copy: Path, tmp_path: Path) -> None:
    maps = nuscenes_copy / 'maps'
    whole = json.loads((maps / 'expansion/singapore-onenorth.json').read_text())
    pictures = {path.name: path.read_bytes() for path in maps.glob('*.png')}
    maps.unlink()
    (maps / 'expansion').mkdir(parents=True)
    for name, data in pictures.items():
        (maps / name).write_bytes(data)
    file = maps / 'expansion/singapore-onenorth.json'
    for content, said in (
        ('{"version": "1.2"}', 'outdated map version'),
        ('{', 'cannot be used: Expecting'),
        (json.dumps(whole | {'line': []}), 'names what is in no layer'),
    ):
        file.write_text(content)
        with pytest.raises(BagError, match=said) as caught:
            open_nuscenes(nuscenes_copy, classes=AREAS, grid=GRID, cache=tmp_path)
        assert str(file) in str(caught.value)
        assert '\n' not in str(caught.value)


def test_missing_and_damaged_files_are_named(
    nuscenes_copy: Path, nuscenes_set: Path, tmp_path: Path
) -> None:
    (nuscenes_copy / 'samples').unlink()
    for folder in (nuscenes_set / 'samples').iterdir():
        (nuscenes_copy / 'samples' / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (nuscenes_copy / 'samples' / folder.name / file.name).write_bytes(file.read_bytes())

    def opened() -> NuscenesSamples:
        return open_nuscenes(nuscenes_copy, classes=OBJECTS, grid=GRID, cache=tmp_path)

    source = opened()
    row = int(source.rows[0])
    images = [nuscenes_copy / image.file for image in source.index.images(row)]
    sweep = nuscenes_copy / source.index.lidar(row)[0]
    sweep.write_bytes(sweep.read_bytes()[:-3])
    with pytest.raises(BagError, match='a point has 20, so it is damaged'):
        source.points(0)
    images[1].write_bytes(b'\xff\xd8\xff\xe0 nothing')
    assert source.view_set(0).missing == ('front',)
    for image in images:
        image.write_bytes(b'nothing')
    with pytest.raises(MessageError, match='front_left'):
        source.view_set(0)
    images[0].unlink()
    wanted = f'{images[0]} is missing; is every part of the data set unpacked'
    with pytest.raises(BagError, match=wanted):
        source.view_set(0)
    with pytest.raises(BagError, match=wanted):  # before a long run begins
        opened()


def test_damaged_cache_of_labels_is_made_again(nuscenes_set: Path, tmp_path: Path) -> None:
    def opened() -> NuscenesSamples:
        return open_nuscenes(nuscenes_set, classes=OBJECTS, grid=GRID, cache=tmp_path)

    wanted = opened().labels(1).positive
    (folder,) = tmp_path.glob('nuscenes/*-labels-*')
    (folder / 'positive.npy').write_bytes(b'x')
    np.testing.assert_array_equal(opened().labels(1).positive, wanted)
    head = json.loads((folder / 'labels.json').read_text())
    (folder / 'labels.json').write_text(json.dumps(head | {'version': 0}))  # of an older program
    np.testing.assert_array_equal(opened().labels(1).positive, wanted)


def test_unknown_class_and_split_are_named(nuscenes_set: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"classes are \['vehicle', 'tree'\]; known are driv"):
        open_nuscenes(nuscenes_set, classes=('vehicle', 'tree'), grid=GRID, cache=tmp_path)
    with pytest.raises(ConfigError, match="no scene of split 'nights'"):
        open_nuscenes(nuscenes_set, classes=OBJECTS, grid=GRID, split='nights', cache=tmp_path)


def test_set_without_annotations_has_no_object_labels(nuscenes_copy: Path, tmp_path: Path) -> None:
    for table in ('sample_annotation', 'instance'):
        (nuscenes_copy / f'v1.0-mini/{table}.json').write_text('[]')
    with pytest.raises(BagError, match='has no annotations, so no labels of vehicle'):
        open_nuscenes(nuscenes_copy, classes=('walkway', 'vehicle'), grid=GRID, cache=tmp_path)
    assert len(open_nuscenes(nuscenes_copy, classes=('walkway',), grid=GRID, cache=tmp_path)) == 2


def test_full_disk_leaves_no_labels(
    nuscenes_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: ArrayFile, rows: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(ArrayFile, 'add', full)
        with pytest.raises(BagError, match='No space left on device') as caught:
            open_nuscenes(nuscenes_set, classes=OBJECTS, grid=GRID, cache=tmp_path)
        assert '\n' not in str(caught.value)
    assert [path.suffix for path in (tmp_path / 'nuscenes').iterdir()] == ['.arrow']
    assert len(open_nuscenes(nuscenes_set, classes=OBJECTS, grid=GRID, cache=tmp_path)) == 2


def test_camera_without_an_image_is_missing(nuscenes_copy: Path, tmp_path: Path) -> None:
    path = nuscenes_copy / 'v1.0-mini/sample_data.json'
    records = json.loads(path.read_text())
    lost = [r for r in records if '/CAM_BACK/' in r['filename']][:2]  # of the first scene
    path.write_text(json.dumps([r for r in records if r not in lost]))
    source = open_nuscenes(nuscenes_copy, classes=OBJECTS, grid=GRID, cache=tmp_path)
    view_set = source.view_set(0)
    assert view_set.missing == ('back',)
    assert [v.name for v in view_set.views] == [n for n in source.cameras if n != 'back']
    other = open_nuscenes(nuscenes_copy, classes=OBJECTS, grid=GRID, split='val', cache=tmp_path)
    assert other.view_set(0).missing == ()
    assert other.cameras == source.cameras


def test_missing_picture_of_a_map_is_named(nuscenes_copy: Path, tmp_path: Path) -> None:
    """The devkit wants it, whatever the classes."""
    (nuscenes_copy / 'maps').unlink()
    with pytest.raises(BagError, match=r'v1\.0-mini: map mask .*\.png does not exist$'):
        open_nuscenes(nuscenes_copy, classes=OBJECTS, grid=GRID, cache=tmp_path)
