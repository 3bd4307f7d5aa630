"""Every command of the README and of docs/scripts.md runs.

And every result stands in a page.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()
PAGES = [README] + [
  p.read_text() for p in sorted((ROOT / 'docs').rglob('*.md'))
]
SCRIPTS = (ROOT / 'docs' / 'scripts.md').read_text()
ALL = [
  line.split('#')[0].strip()
  for block in re.findall(r'```sh\n(.*?)```', README + SCRIPTS, re.DOTALL)
  for line in block.replace('\\\n', ' ').splitlines()
  if line.startswith('./run.sh')
]
# Those on files of one's own, which a test has to make first.
OWN = [line for line in ALL if re.search(r'\b(photos|book)\b', line)]
COMMANDS = [line for line in ALL if line not in OWN]
# Run by tests of their own.
ELSEWHERE = ('test', 'sweep', 'launch/slurm')
ONE_DEVICE = '--config.mesh.data=1'
# What makes a command small, and its data absent files are replaced with.
SMALL = {
  'quickstart': ['--steps=4', '--samples=6', '--rounds=1'],
  'train': [
    '--config.train.steps=2',
    '--config.model.features=6',
    '--config.model.layers=1',
    ONE_DEVICE,
  ],
  'own': ['--config.train.steps=2', ONE_DEVICE],
  'evaluate': [],
  'sample': ['--count=3'],
  'export_params': [],
  'tables/samplers': ['--count=2', '--batch=2', '--rounds=1'],
  'forecaster': ['--steps=2', '--batch=2'],
  'tables/pixel_cost': ['--sizes=4,6', '--rounds=1', '--layers=1'],
  'tables/coupling': ['--count=2', '--draws=2'],
  'gallery': [
    '--steps=2',
    '--only=made',
    '--rounds=1',
    '--workdir=WORKDIR/gallery',
    '--docs=WORKDIR/docs',
  ],
  'tables/recurrences': ['--lengths=5', '--sizes=2', '--rounds=1'],
  'tables/attention': ['--lengths=9', '--window=4', '--size=2', '--rounds=1'],
  'tables/hierarchy': [
    '--config.train.steps=2',
    '--config.model.hidden=(9,)',
    '--layouts=raster,multiscale2',
    '--samples=2',
    ONE_DEVICE,
    '--workdir=WORKDIR/hierarchy',
  ],
  'tables/chain': [
    '--config.train.steps=2',
    '--config.model.features=6',
    '--config.model.layers=1',
    '--coarse.model.features=6',
    '--coarse.model.layers=1',
    '--full.model.features=6',
    '--full.model.layers=1',
    '--levels=2',
    '--samples=2',
    ONE_DEVICE,
    '--workdir=WORKDIR/chain',
  ],
  'tables/train_memory': [
    '--config.data.length=9',
    '--config.model.event=(9,)',
    '--config.model.layers=1',
    '--policies=full',
    '--steps=2',
    ONE_DEVICE,
  ],
  'tables/quantization': ['--count=20', '--rounds=1'],
  'tables/paper': [],
  'tables/inverse': ['--side=3', '--layers=2', '--hidden=8', '--steps=2'],
  'compress': ['--count=6'],
  'influence': ['--events=1', '--count=2'],
}


pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return tmp_path_factory.mktemp('readme')


assert './run.sh quickstart' in COMMANDS, 'the README lost its first command'


@pytest.mark.parametrize('command', COMMANDS)
def test_command(command, workdir):
  _, script, *flags = shlex.split(command)
  if script in ELSEWHERE:
    return
  if any(f.startswith('--data_dir') for f in flags):
    return  # needs files that no test may fetch; docs_test parses its flags
  _train_first(script, command, workdir)
  flags = [f.replace('runs/', f'{workdir}/') for f in flags]
  if script in ('quickstart', 'train') and '--workdir' not in command:
    name = re.search(r'configs/(\w+)\.py', command)
    name = name.group(1) if name else script
    flags.append(f'--workdir={workdir}/{name}')
  small = SMALL['own' if 'configs/own.py' in command else script]
  flags += [f.replace('WORKDIR', str(workdir)) for f in small]
  if script != 'quickstart':
    options_test.run(script, flags)
    return
  done = subprocess.run(
    [sys.executable, '-m', f'experiments.{script}', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  for name in ('report.md', 'samples.png', 'result.json', 'metrics.jsonl'):
    assert (workdir / 'quickstart' / name).stat().st_size
  assert list((workdir / 'quickstart' / 'checkpoints').iterdir())


def _train_first(script, command, workdir):
  """Makes the run that a command reads, if this process has not yet."""
  for name in re.findall(r'runs/(\w+)', command):
    made = (workdir / name / 'config.json').exists()
    if script != 'train' and not made:
      config = f'--config=configs/{name}.py'
      (train,) = [c for c in COMMANDS if c.endswith(f'train {config}')]
      test_command(train, workdir)


@pytest.mark.parametrize(
  'count', [20, pytest.param(200, marks=pytest.mark.slow)]
)
def test_files_of_ones_own(count, tmp_path):
  """From nothing to a trained run, samples, and files that come back."""
  from PIL import Image

  random, folder = np.random.RandomState(0), tmp_path / 'photos'
  folder.mkdir()
  for n, x in enumerate(random.randint(0, 256, (count, 5, 4, 3), np.uint8)):
    Image.fromarray(x).save(folder / f'{n}.png')
  (tmp_path / 'book.txt').write_bytes(b'In the beginning was the word. ' * 60)
  small = ['features=8', 'layers=1']
  more = {
    'photos': [*small, 'resolutions=1', 'num_mixtures=2'],
    'book': [*small, 'heads=2', 'event=(16,)'],
  }
  assert len(OWN) == 7
  for line in OWN:
    _, script, *words = shlex.split(line)
    path = re.compile(r'(^|=)(?=runs/|photos|book|again)')
    words = [path.sub(rf'\g<1>{tmp_path}/', word) for word in words]
    if script == 'train':
      kind = 'photos' if 'photos' in line else 'book'
      words += [f'--config.model.{field}' for field in more[kind]]
      words += ['--config.train.steps=2', '--config.train.batch_size=8']
      words += ['--config.mesh.data=1', '--config.train.tensorboard=False']
      words += ['--config.data.length=16'] * (kind == 'book')
    words += ['--count=2'] * (script == 'sample')
    options_test.run(script, words)
  for file in folder.iterdir():
    assert (tmp_path / 'again' / file.name).read_bytes() == file.read_bytes()
  packed, out = (f'{tmp_path}/{n}' for n in ('book.txt.par', 'out'))
  words = [packed, f'--workdir={tmp_path}/runs/book', f'--out={out}']
  options_test.run('decompress', words)
  book = (tmp_path / 'book.txt').read_bytes()
  assert pathlib.Path(out).read_bytes() == book


@pytest.mark.parametrize('path', sorted((ROOT / 'results').glob('*.json')))
def test_results_stand_in_the_readme_or_a_page(path):
  record = json.loads(path.read_text())
  assert record['command'] and record['commit'] and record['hardware']
  named = '\n'.join(page for page in PAGES if f'results/{path.name}' in page)
  assert named, f'no page names results/{path.name}'
  if 'nats' in record['numbers']:
    numbers = record['numbers']
    value, error = numbers['nats']['value'], numbers['standard_error']['value']
    assert f'{value:.2f} ± {error:.2f}' in named
