r"""Sampling beside PyTorch: the loops people use, run in turn with ours.

  eval "$(./run.sh env)"
  .venv/bin/python -m pip install torch==2.13.0 transformers
  .venv/bin/python -m third_party.peers.sample --workdir=RUN \
      --out=results/peer_sample.json

Gated PixelCNN, the parameters of --workdir on both sides. 'PyTorch, full pass'
evaluates the masked network on the whole image for every pixel, as public
implementations do; 'PyTorch, rows so far' is fairer and feeds it only the rows
down to the pixel's. A loop is timed on --pixels evenly spaced pixels and scaled
to all of them. Before that it draws the first rows of a sample of ours with our
noise, and different pixels are counted.

Transformer, 6 blocks of width 256 on 512 tokens, random weights of each side's
own: `generate` of Hugging Face transformers with its cache, against `cached`.
"""

import contextlib
import functools
import importlib.util
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import entry
from parallel_ar import models, samplers
from parallel_ar.analysis import timing
from parallel_ar.model import position_noise
from parallel_ar.training import configuration, results, trained
from third_party.peers import train_step
from third_party.peers.process import Worker

_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Run of a Gated PixelCNN; random parameters without it.'
)
_NETWORKS_SAMPLED = flags.DEFINE_list(
  'sampled', ['gated_pixelcnn', 'transformer'], 'Which networks to sample.'
)
_BATCHES = flags.DEFINE_list('batches', ['1', '16'], 'Samples of a batch.')
_PIXELS = flags.DEFINE_integer(
  'pixels', 49, 'Pixels that the loops of PyTorch are timed on.', lower_bound=1
)
_CHECKED = flags.DEFINE_integer(
  'checked_rows', 3, 'Rows that PyTorch must draw as we do.', lower_bound=1
)

PIXELCNN = {
  'name': 'gated_pixelcnn',
  'event': (28, 28, 1),
  'features': 32,
  'layers': 7,
  'size': 7,
  'first_size': 7,
  'head_features': 32,
}
TRANSFORMER = {
  'name': 'transformer',
  'event': (512,),
  'num_values': 256,
  'features': 256,
  'layers': 6,
  'heads': 8,
}
YARDSTICK = 'parallel_ar, likelihood'


class Contest(NamedTuple):
  """What is timed.

  Attributes:
    programs: name -> what the worker is told beside the model.
    goals: (faster, slower, ratio): slower / faster must reach the ratio, or
      stay below it where `slower` is ours.
  """

  programs: dict[str, dict[str, Any]]
  goals: list[tuple[str, str, float]]


OURS = ('cached', 'gauss_seidel')


def contest(network: str, batch: int) -> Contest:
  """The programs of a network; goals name 'best' for our fastest sampler."""
  ours = lambda name, **more: {'draw': name, **more}
  if network == 'gated_pixelcnn':
    programs = {f'parallel_ar, {name}': ours(name) for name in OURS}
    return Contest(
      programs
      | {
        YARDSTICK: ours('likelihood', repeats=10),
        'PyTorch, full pass': {'crop': False},
        'PyTorch, rows so far': {'crop': True},
      },
      [
        ('best', 'PyTorch, full pass', 300),
        ('best', 'PyTorch, rows so far', 200),
        (YARDSTICK, 'best', 4),
      ],
    )
  programs = {
    'parallel_ar, cached': ours('cached'),
    'parallel_ar, cached, not proved': ours('cached', verify=False),
    'PyTorch, Hugging Face generate': {},
  }
  goal = 3.5 if batch == 1 else 2.2
  return Contest(programs, [('best', 'PyTorch, Hugging Face generate', goal)])


def save_arrays(
  path: str, section: dict[str, Any], params: Any, batch: int, seed: int
) -> None:
  """Writes parameters, a sample of ours and its noise, for all programs."""
  (model, *_) = models.build(section)
  if params is None:
    params = jax.jit(model.init)(jax.random.key(seed))
  keys = jax.random.split(jax.random.key(seed), batch)
  arrays = {'keys': np.asarray(jax.random.key_data(keys))}
  if section['name'] == 'gated_pixelcnn':
    arrays['x'] = np.asarray(samplers.cached(model)(params, keys).x)
    noise = jax.vmap(functools.partial(position_noise, model))(keys)
    arrays['noise'] = np.asarray(noise)
  for names, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = '/'.join(key.key for key in names)
    arrays[f'params/{name}'] = np.asarray(leaf)
  np.savez(path, **arrays)


@contextlib.contextmanager
def start(
  section: dict[str, Any], params: Any, programs: Mapping[str, Any], batch: int
) -> Iterator[dict[str, Worker]]:
  """Starts all programs in processes of their own."""
  workers: dict[str, Worker] = {}
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'arrays.npz')
    save_arrays(path, section, params, batch, 0)
    try:
      for name, options in programs.items():
        torch = name.startswith('PyTorch')
        spec = {
          'task': 'torch_sample' if torch else 'our_sample',
          'model': section,
          'arrays': path,
          'threads': 2,
          'pixels': _PIXELS.value,
          'checked_rows': _CHECKED.value,
          **options,
        }
        workers[name] = Worker(name, spec)
        workers[name].wait()
      yield workers
    finally:
      for worker in workers.values():
        worker.kill()


def measure(
  section: dict[str, Any], params: Any, what: Contest, batch: int, rounds: int
) -> tuple[timing.Rounds, dict[str, float]]:
  """Seconds a batch of every program, and what each first said."""
  with start(section, params, what.programs, batch) as workers:
    repeats = {n: o.get('repeats', 1) for n, o in what.programs.items()}
    own = (os.getpid(), *(w.pid for w in workers.values()))
    taken = timing.in_turn(
      {
        name: functools.partial(worker.run, repeats[name])
        for name, worker in workers.items()
      },
      rounds=rounds,
      foreign_clock=lambda: timing.foreign_seconds(own),
    )
    first = {name: worker.first_loss for name, worker in workers.items()}
  size = int(np.prod(section['event']))
  loops = 'PyTorch, full pass', 'PyTorch, rows so far'
  scale = {n: size / min(_PIXELS.value, size) for n in loops}
  seconds = {
    name: t / repeats[name] * scale.get(name, 1)
    for name, t in taken.seconds.items()
  }
  return timing.Rounds(seconds, taken.foreign), first


def report(
  title: str,
  what: Contest,
  taken: timing.Rounds,
  first: Mapping[str, float],
  symbols: int,
) -> tuple[list[str], dict[str, tuple[float, str]]]:
  """A table in Markdown, and the numbers in it."""
  ours = [n for n in taken.seconds if n.startswith('parallel_ar')]
  drawn = [n for n in ours if n != YARDSTICK]
  best = min(drawn, key=lambda n: np.median(taken.seconds[n]))
  lines = [
    f'### {title}',
    '',
    '| program | seconds a batch | symbols/s | in units of our best |',
    '|---|--:|--:|--:|',
  ]
  numbers: dict[str, tuple[float, str]] = {}
  for name, seconds in taken.seconds.items():
    time_of = timing.summarize(seconds)
    against = timing.ratio(taken, name, best)
    lines.append(
      f'| {name} | {time_of.text(digits=4)} | {symbols / time_of.median:.0f} '
      f'| {against.text()} |'
    )
    numbers[f'{title}: {name}'] = (time_of.median, 's')
  lines += ['', f'Our best: {best}.']
  for fast, slow, goal in what.goals:
    fast, slow = (best if n == 'best' else n for n in (fast, slow))
    ratio = timing.ratio(taken, slow, fast)
    limit = slow == best
    good = ratio.median <= goal if limit else ratio.median >= goal
    lines.append(
      f'Goal: {slow} / {fast} {"at most" if limit else "at least"} {goal}; '
      f'{ratio.text()}: {"reached" if good else "missed"}.'
    )
    numbers[f'{title}: {slow} / {fast}'] = (ratio.median, 'x')
  wrong = {n: int(v) for n, v in first.items() if 'pass' in n or 'rows' in n}
  if wrong:
    lines.append(f'Pixels that PyTorch drew otherwise than we: {wrong}.')
  return lines, numbers


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  for package in ('torch', 'transformers'):
    if package == 'torch' or 'transformer' in _NETWORKS_SAMPLED.value:
      _require(package)
  section, params = dict(PIXELCNN), None
  if _WORKDIR.value:
    run = trained.load(pathlib.Path(_WORKDIR.value))
    section |= configuration.to_json(run.config)['model']
    params = run.params
  numbers: dict[str, tuple[float, str]] = {}
  details: dict[str, Any] = {}
  for network in _NETWORKS_SAMPLED.value:
    for batch in map(int, _BATCHES.value):
      what = contest(network, batch)
      here = section if network == 'gated_pixelcnn' else dict(TRANSFORMER)
      own = params if network == 'gated_pixelcnn' else None
      rounds = flags.FLAGS.rounds
      taken, first = measure(here, own, what, batch, rounds)
      title = f'{network}, batch {batch}'
      symbols = batch * int(np.prod(here['event']))
      lines, found = report(title, what, taken, first, symbols)
      print('\n'.join(['', *lines]), flush=True)
      numbers |= found
      details[title] = {n: t.tolist() for n, t in taken.seconds.items()}
  if flags.FLAGS.out:
    record = results.result_json(
      numbers,
      config={'gated_pixelcnn': section, 'transformer': TRANSFORMER},
      seed=0,
      wall_seconds=time.monotonic() - started,
      details=details | {'pixels': _PIXELS.value},
    )
    versions = results.versions() | train_step.peer_versions()
    results.save(flags.FLAGS.out, record | {'versions': versions})


def _require(package: str) -> None:
  if importlib.util.find_spec(package) is None:
    raise ModuleNotFoundError(
      f'This benchmark runs {package} beside us, and it is not installed: the '
      'project does not need it. Install it into this environment, as '
      'third_party/README.md says, and run this again.'
    )


if __name__ == '__main__':
  entry.run(main)
