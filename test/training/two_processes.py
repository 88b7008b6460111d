"""A program that trains on a fake source; Fabric runs it again for every further process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from bev_perception.errors import BevError
from bev_perception.model.config import AttentionConfig
from bev_training.fit.loop import fit
from bev_training.fit.pretrain_settings import ObjectivesConfig, TeacherConfig
from bev_training.fit.settings import AugmentConfig, DataConfig, OptimizerConfig
from test.training.fake_source import make_fake_model, make_fake_source
from test.training.fit_runs import make_run_config


def main(out: str, settings: str) -> int:
    """Train with the settings, given as JSON, and say where it ended."""
    torch.set_num_threads(1)
    given = json.loads(settings)
    shown = {name: tuple(given.pop(name, ())) for name in ('broken', 'blind')}
    values = {'center_offset': given.pop('center_offset', False)}
    if cache := given.pop('pretraining', ''):
        shown['classes'] = ()
        values |= {'classes': (), 'obstacle_classes': ()}
        given['objectives'] = ObjectivesConfig(segmentation=0, occfeat=1)
        given['teacher'] = TeacherConfig(name='efficientnet_lite0', block=16, size_px=(64, 32))
        given['data'] = DataConfig(workers=0, cache=cache)
    if given.pop('temporal', False):
        # Processes would drop others than one process does.
        attention = AttentionConfig(
            layers=1, heads=2, points=2, hidden=16, dropout=0, temporal=True
        )
        values |= {'network': 'bevformer', 'attention': attention}
    config = make_run_config(
        make_fake_model(**values),
        optimizer=OptimizerConfig(lr=1e-4, batch_norm=given.pop('batch_norm', 'frozen')),
        augment=AugmentConfig(yaw_deg=20, drop_camera=0.2),
        **given,
    )
    val = make_fake_source(3, classes=config.model.classes)
    try:
        fit(config, Path(out), train=make_fake_source(6, **shown), val=val)
    except BevError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    raise SystemExit(main(*sys.argv[1:]))
