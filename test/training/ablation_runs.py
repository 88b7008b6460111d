"""Grids for tests of `bev ablate`, run with `fake_bev.py` instead of trainings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bev_training.ablation.plan import Plan, make_plan
from bev_training.ablation.reading import read_ablation
from bev_training.cli_ablate import add_ablate

FAKE = Path(__file__).with_name('fake_bev.py')


def write_recipes(folder: Path) -> Path:
    """Recipes of tiny networks, in a folder, and data to name; returns the folder."""
    grid = {'x_range_m': [-8, 8], 'y_range_m': [-8, 8], 'cell_m': 0.5, 'z_cells': 2}
    model = {'grid': grid, 'image_size_px': [96, 64], 'backbone': 'resnet18', 'channels': 8}
    usual = {'steps': 2, 'batch_size': 1, 'weights': 'random', 'accelerator': 'cpu'}
    pretrained = model | {'classes': [], 'obstacle_classes': []}
    names = {
        'occfeat': usual | {'model': pretrained, 'objectives': {'segmentation': 0, 'occfeat': 1}},
        'img_also': usual
        | {'model': pretrained, 'objectives': {'segmentation': 0, 'img_also': 1}},
        'both': usual | {'model': model | {'classes': ['drivable_area', 'walkway', 'vehicle']}},
        'vehicle': usual | {'model': model | {'classes': ['vehicle']}},
        'map_1': usual
        | {'model': model | {'classes': ['walkway', 'divider'], 'obstacle_classes': []}},
    }
    names['map_10'] = names['map_1'] | {'steps': 7}
    for name, recipe in names.items():
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(recipe))
    for name in ('train', 'val'):
        (folder / name).mkdir()
    return folder


def grid_of(folder: Path, **changed: Any) -> dict[str, Any]:
    """A grid of one network; a field that is None is left out."""
    grid = {
        'train': str(folder / 'train'),
        'val': str(folder / 'val'),
        'seeds': [0, 1],
        'labels': [1, 10],
        'networks': {
            'Net A': {
                'pretrain': {
                    'occfeat': str(folder / 'occfeat.yaml'),
                    'img_also': str(folder / 'img_also.yaml'),
                },
                'finetune': str(folder / 'both.yaml'),
            }
        },
        'pretrainings': {'none': None, 'occfeat': {}},
        **changed,
    }
    return {name: value for name, value in grid.items() if value is not None}


def write_grid(folder: Path, grid: dict[str, Any]) -> Path:
    path = folder / 'grid.yaml'
    path.write_text(yaml.safe_dump(grid, sort_keys=False, allow_unicode=True))
    return path


def plan_of(folder: Path, changed: Sequence[tuple[str, str]] = (), **fields: Any) -> Plan:
    return make_plan(read_ablation(write_grid(folder, grid_of(folder, **fields))), changed)


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A grid that is run with the stand-in.

    Attributes:
        folder: recipes, and what the stand-in notes.
        out: OUT.
    """

    folder: Path
    out: Path

    def run(self, *options: object, **fields: Any) -> None:
        grid = write_grid(self.folder, grid_of(self.folder, **fields))
        ablate('--config', grid, '--out', self.out, *options)

    def calls(self) -> list[dict[str, Any]]:
        path = self.folder / 'calls.jsonl'
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def names(self) -> list[str]:
        return [call['run'] for call in self.calls()]

    def results(self) -> dict[str, Any]:
        return json.loads((self.out / 'results.json').read_text())

    def tables(self) -> str:
        return (self.out / 'tables.md').read_text()

    def say(self, name: str, text: object) -> None:
        """Tell the stand-in what to do: see there."""
        (self.folder / name).write_text(str(text))

    def silence(self, name: str) -> None:
        (self.folder / name).unlink()


def ablate(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    add_ablate(parser.add_subparsers(dest='verb'))
    chosen = parser.parse_args(['ablate', *map(str, arguments)])
    chosen.run(chosen)
