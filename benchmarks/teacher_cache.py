"""Images per second that a teacher's cache is built with, against the bare teacher's forward pass.

python benchmarks/teacher_cache.py [--data FRAMES] [--samples 12] [--rounds 3]
    [--name dinov2_vits14] [--weights random] [--block 7] [--size 392x224] [--device cpu]

FRAMES is a folder of converted drives; without one, a synthetic drive is made in a temporary
folder. Building reads, decodes, rectifies, computes and stores; the bare pass has its images in
memory. Both take turns over the same samples, in batches of the same size; the ratio is the median
over the rounds. Reading a stored sample is timed beside computing it again. Weights do not change
the time: 'random' needs none. The report on the features' quality is not in it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.loader import make_frames
from bev_perception.model import torchvision_ops as torchvision_ops  # before timm
from bev_perception.model.config import ModelConfig
from bev_training.data.sample import SampleSource
from bev_training.data.sources import open_source
from bev_training.fit.pretrain_settings import TEACHERS, TeacherConfig
from bev_training.teachers import fill as filling
from bev_training.teachers.cache import FeatureCache
from bev_training.teachers.dinov2 import VITS
from bev_training.teachers.load import Teacher, load_teacher
from bev_training.teachers.views import teacher_decode_px, teacher_images

import timm  # isort: skip


def with_random_weights(config: TeacherConfig, work: Path) -> Teacher:
    path = work / 'random.safetensors'
    network = timm.create_model(VITS[config.name].timm, pretrained=False, num_classes=0)
    save_file(network.state_dict(), path)
    return load_teacher(TeacherConfig(**{**vars(config), 'weights': str(path)}))


def images_of(source: SampleSource, i: int, teacher: Teacher) -> torch.Tensor:
    views = source.view_set(i, at_least_px=teacher_decode_px(teacher.size_px))
    images, _, _ = teacher_images(views, teacher.size_px)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def waited(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(source: SampleSource, teacher: Teacher, samples: int, rounds: int, work: Path) -> None:
    device = next(teacher.parameters()).device
    together = filling._TOGETHER.get(device.type, 1)
    indices = [k * len(source) // samples for k in range(samples)]
    kept = [images_of(source, i, teacher) for i in indices]
    batches = [torch.cat(kept[k : k + together]) for k in range(0, samples, together)]
    count = sum(len(images) for images in kept)
    ratios, built, bare, loading = [], [], [], []
    for batch in batches[:1]:
        teacher(batch.to(device))
    for number in range(rounds):
        cache = FeatureCache.of(teacher, work / str(number), limit_gb=100)
        report = filling.fill(cache, teacher, source, indices, device=device)
        assert report.made == samples, report
        start = waited(device)
        for batch in batches:
            teacher(batch.to(device))
        seconds = waited(device) - start
        start = time.perf_counter()
        found = [cache.load(source.fingerprint(i)) for i in indices]
        loading.append((time.perf_counter() - start) / count)
        assert all(found)
        built.append(count / report.seconds)
        bare.append(count / seconds)
        ratios.append(seconds / report.seconds)
        print(f'round {number + 1}: built {built[-1]:.2f}, bare {bare[-1]:.2f} images/s')
    middle = statistics.median
    print(teacher.description)
    print(
        f'the bare teacher: {middle(bare):.2f} images/s; the cache: {middle(built):.2f} images/s'
    )
    print(f'ratio cache / bare: {middle(ratios):.2f}')
    print(
        f'a stored image is read in {1e3 * middle(loading):.2f} ms (fingerprint included), '
        f'{1 / middle(loading) / middle(bare):.0f} times as fast as it is computed'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, help='folder of converted drives')
    parser.add_argument('--samples', type=int, default=12)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--name', default='dinov2_vits14', choices=TEACHERS)
    parser.add_argument('--weights', default='random')
    parser.add_argument('--block', type=int, default=-1)
    parser.add_argument('--size', default='392x224')
    parser.add_argument('--device', default='cpu')
    chosen = parser.parse_args()
    width, height = map(int, chosen.size.split('x'))
    random = chosen.weights == 'random' and chosen.name in VITS
    config = TeacherConfig(
        name=chosen.name,
        weights='' if chosen.weights == 'random' else chosen.weights,
        block=chosen.block,
        size_px=(width, height),
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        frames = chosen.data or make_frames(work)
        source = open_source(frames, classes=(), grid=ModelConfig().grid)
        teacher = with_random_weights(config, work) if random else load_teacher(config)
        teacher.to(torch.device(chosen.device))
        measure(source, teacher, min(chosen.samples, len(source)), chosen.rounds, work)


if __name__ == '__main__':
    main()
