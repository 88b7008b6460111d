"""`bev ablate` runs a grid of trainings: in which order, what of it again, and what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from bev_perception.errors import BevError
from bev_training.ablation import plot, running
from bev_training.ablation.plot import draw_results
from test.training.ablation_runs import FAKE, Ablation, grid_of, write_grid, write_recipes

ROOT = Path(__file__).parents[2]
TABLE = """\
IoU in % on the validation data, 2 seeds: mean ± standard deviation; in brackets what is gained \
over none, seed by seed; map is the mean of all classes that are no objects.

## Results

Each class at 0.5.

| network | pretraining | vehicle 1 % | vehicle 10 % | map 1 % | map 10 % |
| --- | --- | --- | --- | --- | --- |
| Net A | none | 30.7 ± 0.7 | 32.5 ± 0.7 | 15.7 ± 0.7 | 17.5 ± 0.7 |
|  | occfeat | 45.7 ± 7.8 (+15.0 ± 7.1) | 47.5 ± 7.8 (+15.0 ± 7.1) | 30.7 ± 7.8 (+15.0 ± 7.1) | \
32.5 ± 7.8 (+15.0 ± 7.1) |
"""


@pytest.fixture
def ablation(tmp_path, monkeypatch) -> Ablation:
    monkeypatch.setattr(running, 'BEV', (sys.executable, str(FAKE)))
    monkeypatch.setenv('FAKE_BEV', str(tmp_path))
    monkeypatch.setattr(plot, 'draw_results', lambda results: b'a picture')  # takes a second
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    return Ablation(folder=write_recipes(tmp_path), out=tmp_path / 'out')


def test_a_grid_becomes_tables_figures_and_a_picture(ablation, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, 'draw_results', lambda results: drawn.append(results) or b'')
    ablation.run()
    (ablation.out / 'results.png').write_bytes(draw_results(drawn[-1]))
    assert ablation.tables() == TABLE
    results = ablation.results()
    assert results['runs_done'] == 10 and results['runs_failed'] == 0
    (cell,) = (
        cell
        for cell in results['cells']
        if (cell['pretraining'], cell['labels_percent']) == ('occfeat', 10)
    )
    assert cell['scores']['walkway']['best_iou'] == {
        'mean': pytest.approx(0.425), 'std': pytest.approx(0.077782),
        'by_seed': {'0': 0.37, '1': 0.48},
        'gain': {'mean': 0.15, 'std': pytest.approx(0.070711), 'by_seed': {'0': 0.1, '1': 0.2}},
    }  # fmt: skip
    assert {run['state'] for run in results['runs']} == {'done'}
    picture = cv2.imread(str(ablation.out / 'results.png'))
    assert picture.shape[1] > 400 and np.unique(picture.reshape(-1, 3), axis=0).shape[0] > 20
    said = capsys.readouterr().out
    assert '10 runs: 2 pretrainings and 8 fine-tunings; 0 are done' in said
    assert 'Net A, occfeat, 1 %, seed 1: drivable_area 31.2, walkway 41.2, vehicle 51.2' in said
    assert TABLE in said and str(ablation.out / 'results.png') in said


def test_each_run_has_a_folder_a_recipe_and_a_log_and_can_be_repeated_by_hand(ablation):
    ablation.run(seeds=[3], labels=[1])
    none, pretrained, tuned = ablation.calls()
    assert [call['verb'] for call in (none, pretrained, tuned)] == [
        'finetune', 'pretrain', 'finetune',
    ]  # fmt: skip
    assert tuned['init'] == f'{pretrained["out"]}/final.safetensors'
    assert not none['init'] and all(call['resume'] for call in ablation.calls())
    assert none['threads'] is None  # alone, a run may use the whole machine
    folder = Path(tuned['out'])
    assert folder.parent == ablation.out / 'finetune'
    assert folder.name.startswith('Net-A-occfeat-1-seed-3-')
    assert not (folder / 'last.ckpt').exists() and (folder / 'final.safetensors').is_file()
    log = folder.with_name(f'{folder.name}.log').read_text()
    assert log.startswith(f'$ bev finetune --config {folder}.yaml --out {folder} --resume --init')
    assert f'train: {ablation.folder / "train"}' in Path(f'{folder}.yaml').read_text()


def test_the_same_command_trains_nothing_again_and_a_changed_grid_only_what_is_new(ablation):
    ablation.run(seeds=[0], labels=[1])
    before = ablation.tables()
    assert len(ablation.calls()) == 3
    ablation.run(seeds=[0], labels=[1])
    assert len(ablation.calls()) == 3 and ablation.tables() == before
    renamed = {'Net B': grid_of(ablation.folder)['networks']['Net A']}
    ablation.run(seeds=[0], labels=[1, 10], networks=renamed)
    assert ablation.names()[3:] == ['Net B, none, 10 %, seed 0', 'Net B, occfeat, 10 %, seed 0']
    assert '| Net B | none | 30.2 | 32.0 |' in ablation.tables()


def test_a_run_that_fails_is_named_and_the_others_go_on(ablation):
    ablation.say('fail', 'Net A, none, 10 %, seed 0\nNet A, occfeat, seed 1')
    with pytest.raises(BevError) as raised:
        ablation.run()
    said = str(raised.value)
    log = next((ablation.out / 'finetune').glob('Net-A-none-10-seed-0-*.log'))
    assert said == (
        'Net A, none, 10 %, seed 0: '.join(['4 of 10 runs failed; the first: ', ''])
        + f'bev: the loss is no number any more (log: {log}); the same command tries them again'
    )
    tables = ablation.tables()
    assert 'so far 6 of 10 runs are done' in tables
    assert '| Net A | none | 30.7 ± 0.7 | 33.0 [1 of 2] | 15.7 ± 0.7 | 18.0 [1 of 2] |' in tables
    # What is gained is counted over the seeds that both have; with 10 % there is none.
    assert '|  | occfeat | 40.2 (+10.0) [1 of 2] | 42.0 [1 of 2] |' in tables
    assert 'Net A, occfeat, 1 %, seed 1: its pretraining failed: Net A, occfeat, seed 1' in tables
    assert len(ablation.calls()) == 8  # two would have started from what failed
    ablation.silence('fail')
    ablation.run()
    assert ablation.tables() == TABLE
    assert sorted(ablation.names()[8:]) == [
        'Net A, none, 10 %, seed 0', 'Net A, occfeat, 1 %, seed 1',
        'Net A, occfeat, 10 %, seed 1', 'Net A, occfeat, seed 1',
    ]  # fmt: skip


def test_several_runs_at_a_time_share_the_machine(ablation, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '2,5,7')
    ablation.say('slow', 0.6)
    ablation.run('--jobs', 2, seeds=[0], pretrainings={'none': None, 'occfeat': {}})
    calls = ablation.calls()
    assert ablation.results()['runs_done'] == len(calls) == 5
    events = sorted([(c['began'], 1) for c in calls] + [(c['ended'], -1) for c in calls])
    assert max(np.cumsum([change for _, change in events])) == 2
    assert {call['threads'] for call in calls} == {'1'}
    assert {call['gpus'] for call in calls} == {'2,7', '5'}
    by_name = {call['run']: call for call in calls}
    pretrained = by_name['Net A, occfeat, seed 0']['ended']
    assert all(c['began'] > pretrained for name, c in by_name.items() if 'occfeat, 1' in name)


def test_results_are_drawn_anew_whenever_a_run_ends(ablation):
    seen = []
    write = running.run_all

    def watched(*arguments, tell, **named):
        def look(run, outcome):
            tell(run, outcome)
            seen.append(ablation.results()['runs_done'])

        write(*arguments, tell=look, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, 'run_all', watched)
        ablation.run(seeds=[0], labels=[1])
    assert seen == [1, 2, 3]


def test_ctrl_c_lets_runs_save_and_the_same_command_goes_on(ablation):
    ablation.say('slow', 60)
    grid = write_grid(ablation.folder, grid_of(ablation.folder, seeds=[0], labels=[1]))
    code = (
        'import sys; from bev_training.ablation import running; '
        f'running.BEV = (sys.executable, {str(FAKE)!r}); '
        'from test.training.ablation_runs import ablate; '
        'from bev_training.stopping import stoppable\n'
        'with stoppable("bev ablate", last=True): ablate(*sys.argv[1:])'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', code, '--config', grid, '--out', ablation.out, '--jobs', '2'],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_until(lambda: len([*ablation.folder.glob('running-*')]) == 2, process)
    with pytest.raises(BevError, match='is in use by another `bev ablate`'):
        ablation.run(seeds=[0], labels=[1])
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and 'KeyboardInterrupt' in said
    logs = [*ablation.out.glob('*/*.log')]
    assert len(logs) == 2
    assert all('stopped, and saved' in log.read_text() for log in logs)
    ablation.silence('slow')
    ablation.run(seeds=[0], labels=[1])
    assert ablation.results()['runs_done'] == 3


def test_nobody_writes_where_runs_of_a_killed_command_still_work(ablation):
    out = ablation.out
    with running.held(out) as lock:
        left = subprocess.Popen(['sleep', '60'], pass_fds=(lock,))
    try:
        with pytest.raises(BevError, match='or by trainings that one has left behind'):
            ablation.run()
    finally:
        left.kill()
        left.wait()
    ablation.run(seeds=[0], labels=[1])


def test_a_plan_is_shown_without_running_it(ablation, capsys):
    ablation.run('--plan', seeds=[0], labels=[1])
    assert not ablation.calls() and not ablation.out.exists()
    said = capsys.readouterr().out.splitlines()
    assert said[0].split(maxsplit=3)[2:] == ['finetune', 'Net A, none, 1 %, seed 0']
    assert said[-1] == '3 runs: 1 pretrainings and 2 fine-tunings'


def test_json_prints_the_results_and_nothing_else(ablation, capfd):
    ablation.run('--json', seeds=[0], labels=[1], pretrainings=None)
    assert json.loads(capfd.readouterr().out) == ablation.results()


def test_a_process_that_is_killed_is_said_to_be(ablation, monkeypatch):
    monkeypatch.setattr(
        running, 'BEV', (sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)')
    )
    with pytest.raises(BevError, match=r'killed \(signal 9\); is there enough memory\?'):
        ablation.run(seeds=[0], labels=[1], pretrainings=None)


def test_a_network_that_cannot_be_read_is_named(ablation):
    ablation.run(seeds=[0], labels=[1], pretrainings=None)
    (network,) = ablation.out.glob('finetune/*/final.safetensors')
    network.write_bytes(b'nothing')
    with pytest.raises(BevError, match=f'{network} is no network of a run'):
        ablation.run(seeds=[0], labels=[1], pretrainings=None)


@pytest.mark.skipif(os.geteuid() == 0, reason='nothing keeps root from writing')
def test_a_folder_that_cannot_be_written_is_one_line(ablation):
    ablation.folder.chmod(0o555)
    with pytest.raises(BevError, match='cannot be written'):
        ablation.run()
    ablation.folder.chmod(0o755)


def _wait_until(true, process, patience_s: float = 60.0) -> None:
    deadline = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
