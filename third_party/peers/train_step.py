r"""A training step of ours against the same network in PyTorch, run in turn.

  eval "$(./run.sh env)"
  .venv/bin/python -m pip install torch==2.13.0
  .venv/bin/python -m third_party.peers.train_step \
      --out=results/peer_train_step.json

Networks: those of `networks`, MADE and Gated PixelCNN by default, on request
the worked example at three lengths; Adam, float32, both sides with two threads
and the same environment (the allocator's settings are printed, since
they decide such comparisons). Every program is a process of its own that starts
from the same parameters and batch; their first losses are compared before
anything is timed. On a GPU (--platform=cuda) there are four larger networks, in
float32 and in bfloat16, and PyTorch is compiled without being asked.

'PyTorch, eager' is the same network as its users write it: a full kernel times
a mask, the default Adam. The goals refer to it. The variants below it are what
one can do about speed on that side; the fastest of them is the fair rival, and
its ratio is printed too.
"""

import contextlib
import functools
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import entry
from parallel_ar import models
from parallel_ar.analysis import timing
from parallel_ar.models.made import hidden_degrees
from parallel_ar.training import results
from third_party.peers import networks as networks_lib
from third_party.peers.networks import BFLOAT16, EAGER, OURS, Network
from third_party.peers.process import Worker

_OUT = flags.DEFINE_string('out', None, 'Write the result here, as JSON.')
_ROUNDS = flags.DEFINE_integer('rounds', 11, 'Timed rounds of every program.')
_THREADS = flags.DEFINE_integer('threads', 2, 'Threads of every program.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the parameters and the batch.')
_NETWORKS = flags.DEFINE_list(
  'networks', ['made', 'gated_pixelcnn'], 'Which networks to time.'
)
_STEPS = flags.DEFINE_integer(
  'steps', 0, 'Steps that one time is the mean of; 0: as many as is fit.'
)
_COMPILED = flags.DEFINE_bool(
  'compiled', False, 'Also time torch.compile, which needs a C++ compiler.'
)
_PATIENCE = flags.DEFINE_float(
  'patience',
  3600.0,
  'Seconds that the first step of a program is waited for; one that takes '
  'longer, or fails, is left out of its table, and said to be.',
  lower_bound=1.0,
)

ENVIRONMENT = ('MALLOC_', 'LD_PRELOAD', 'XLA_FLAGS', 'OMP_', 'MKL_', 'KMP_')


def save_arrays(path: str | os.PathLike[str], network: Network, seed: int):
  """Writes the parameters, the batch and the masks that all programs share."""
  (model, *_) = models.build(network.model)
  params = jax.jit(model.init)(jax.random.key(seed))
  rng = np.random.default_rng(seed)
  shape = (network.batch, *model.event.shape)
  arrays = {'x': (rng.random(shape) < 0.2).astype(np.int32)}
  if model.head.num_values != 2:
    arrays['x'] = rng.integers(model.head.num_values, size=shape, dtype='int32')
  for keys, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = '/'.join(key.key for key in keys)
    arrays[f'params/{name}'] = np.asarray(leaf)
  if network.model['name'] == 'made':
    arrays['rank'] = np.asarray(model.rank).reshape(-1)
    degrees = hidden_degrees(
      arrays['rank'], network.model['hidden'], 'random', 0
    )
    arrays |= {f'degrees/{l}': degree for l, degree in enumerate(degrees)}
  np.savez(path, **arrays)


@contextlib.contextmanager
def start(
  network: Network,
  *,
  seed: int,
  threads: int,
  compiled: bool,
  platform: str | None = None,
  patience: float = math.inf,
) -> Iterator[dict[str, Worker]]:
  """Starts all programs of a network from the same numbers.

  Those of PyTorch are built side by side, which one waits for where they are
  compiled; ours one after another, since XLA times kernels on a GPU. One that
  fails, or takes no step in `patience` seconds, is left out and said to be. The
  others are compared with `OURS` and `EAGER`, so these must come.

  Raises:
    RuntimeError: a program did not start, or its first loss is another one.
  """
  workers: dict[str, Worker] = {}
  came: dict[str, bool] = {}
  with tempfile.TemporaryDirectory() as directory:
    path = os.path.join(directory, 'arrays.npz')
    save_arrays(path, network, seed)
    try:
      for name in sorted(network.programs, key=lambda n: n.startswith(OURS)):
        options = network.programs[name]
        if options.get('compiled') and not compiled:
          continue
        ours = name.startswith(OURS)
        spec = {
          'task': 'our_step' if ours else 'torch_step',
          'model': network.model,
          'arrays': path,
          'threads': threads,
          'platform': platform,
        }
        workers[name] = Worker(name, spec | options)
        if ours:
          came[name] = _comes(workers[name], patience)
      for name, worker in workers.items():
        if not name.startswith(OURS):
          came[name] = _comes(worker, patience)
      workers = {n: workers[n] for n in network.programs if came.get(n)}
      check_losses({name: w.first_loss for name, w in workers.items()})
      yield workers
    finally:
      for worker in workers.values():
        worker.kill()


def _comes(worker: Worker, patience: float) -> bool:
  """Whether it takes its first step; says why not, where it need not."""
  try:
    worker.wait(patience)
  except RuntimeError as error:
    if worker.name in (OURS, EAGER):
      raise
    print(f'left out: {error}', file=sys.stderr, flush=True)
    return False
  return True


def check_losses(losses: Mapping[str, float]) -> None:
  """Refuses to compare networks that are not the same.

  Raises:
    RuntimeError: a loss differs from ours by more than a part of 1e-4, or one
      in bfloat16 by 1e-2.
  """
  for name, loss in losses.items():
    tolerance = 1e-2 if name.endswith(BFLOAT16) else 1e-4
    if not abs(loss - losses[OURS]) <= tolerance * abs(losses[OURS]):
      raise RuntimeError(
        f'{name!r} starts with a loss of {loss} nats, {OURS!r} with '
        f'{losses[OURS]}. The networks differ, so their times say nothing: see '
        'tests/third_party_test.py.'
      )


def measure(
  network: Network, workers: Mapping[str, Worker], rounds: int
) -> tuple[timing.Rounds, dict[str, float]]:
  """Times all programs in turn: rounds of seconds per step, and peak bytes."""
  own = (os.getpid(), *(worker.pid for worker in workers.values()))
  taken = timing.in_turn(
    {
      name: functools.partial(worker.run, network.steps)
      for name, worker in workers.items()
    },
    rounds=rounds,
    foreign_clock=lambda: timing.foreign_seconds(own),
  )
  seconds = {name: t / network.steps for name, t in taken.seconds.items()}
  peaks = {name: worker.close() for name, worker in workers.items()}
  return timing.Rounds(seconds, taken.foreign), peaks


def report(
  name: str, network: Network, taken: timing.Rounds, peaks: Mapping[str, float]
) -> tuple[list[str], dict[str, Any]]:
  """The table of a network in Markdown, and the numbers in it."""
  total = len(taken.seconds[OURS])
  calm = timing.quiet(taken)
  kept = len(calm.seconds[OURS])
  used = calm if kept >= 3 else taken
  lines = [
    f'### {name}, batch {network.batch}',
    '',
    '| program | ms a step | parallel_ar / program | peak MB |',
    '|---|---:|---:|---:|',
  ]
  rows = {}
  for program, seconds in used.seconds.items():
    time_of = timing.summarize(seconds)
    against = timing.ratio(used, OURS, program)
    peak = peaks[program]
    lines.append(
      f'| {program} | {time_of.text(1e3)} | {against.text()} '
      f'| {peak / 1e6:.0f} |'
    )
    rows[program] = {
      'seconds': time_of._asdict(),
      'ratio': against._asdict(),
      'peak_bytes': peak,
      'all_rounds_seconds': taken.seconds[program].tolist(),
      'foreign_cores': _finite(taken.foreign[program]),
    }
  eager = rows[EAGER]['ratio']['median']
  verdict = 'reached' if eager <= network.goal else 'missed'
  best, fair = fastest(used)
  lines += [
    '',
    f'Goal: at most {network.goal} of {EAGER!r}; {eager:.2f}: {verdict}. '
    f'Of the fastest PyTorch, {best!r}: {fair.median:.2f}.',
    f'Median [quartiles] of {len(used.seconds[OURS])} rounds; {kept} of '
    f'{total} were quiet (others used less than {timing.QUIET_CORES} core).'
    + ('' if kept >= 3 else ' The machine was busy: run it again.'),
  ]
  numbers = {
    'goal': network.goal,
    'eager_ratio': eager,
    'best_torch': best,
    'best_ratio': fair.median,
    'quiet_rounds': kept,
    'rounds': total,
    'programs': rows,
  }
  if missing := [name for name in network.programs if name not in rows]:
    lines.append(f'Not timed: {", ".join(missing)}.')
    numbers['not_timed'] = missing
  short = [name for name in used.seconds if name.endswith(BFLOAT16)]
  if {name.startswith(OURS) for name in short} == {True, False}:
    best, fair = fastest(used, short=True)
    lines.append(f'In {BFLOAT16} of the fastest, {best!r}: {fair.text()}.')
    numbers |= {'best_torch_bfloat16': best, 'best_bfloat16_ratio': fair.median}
  return lines, numbers


def fastest(
  rounds: timing.Rounds, short: bool = False
) -> tuple[str, timing.Summary]:
  """PyTorch's fastest program, and what ours takes of its time.

  Args:
    rounds: of all programs.
    short: those in bfloat16, and of ours the fastest too; else `OURS` and the
      others.
  """
  names = [n for n in rounds.seconds if n.endswith(BFLOAT16) == short]
  least = lambda side: min(
    (n for n in names if n.startswith(side)),
    key=lambda n: np.median(rounds.seconds[n]),
  )
  theirs, ours = least('PyTorch'), least(OURS) if short else OURS
  return theirs, timing.ratio(rounds, ours, theirs)


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  _require_torch()
  platform = flags.FLAGS.platform
  networks = networks_lib.on(platform)
  unknown = set(_NETWORKS.value) - set(networks)
  if unknown or not _NETWORKS.value:
    raise ValueError(
      f'--networks={",".join(_NETWORKS.value)}: choose from '
      f'{", ".join(networks)}.'
    )
  settings = {
    name: value
    for name, value in sorted(os.environ.items())
    if name.startswith(ENVIRONMENT)
  }
  versions = results.versions() | peer_versions()
  hardware = results.hardware()
  print(
    f'{hardware["device_kind"]}, {hardware["cpu"]}, {_THREADS.value} threads; '
    f'jax {versions["jax"]}, torch {versions["torch"]}; '
    + (' '.join(f'{k}={v}' for k, v in settings.items()) or 'no settings'),
    flush=True,
  )
  details: dict[str, Any] = {'environment': settings}
  ratios = {}
  for name in _NETWORKS.value:
    network = networks[name]
    network = network._replace(steps=_STEPS.value or network.steps)
    with start(
      network,
      seed=_SEED.value,
      threads=_THREADS.value,
      compiled=_COMPILED.value or platform == 'cuda',
      platform=platform,
      patience=_PATIENCE.value,
    ) as workers:
      taken, peaks = measure(network, workers, _ROUNDS.value)
    lines, details[name] = report(name, network, taken, peaks)
    print('\n'.join(['', *lines]), flush=True)
    for kind in ('eager_ratio', 'best_ratio', 'best_bfloat16_ratio'):
      if kind in details[name]:
        ratios[f'{name}_{kind}'] = (details[name][kind], '1')
    if _OUT.value:  # after every network: the next one may take too long
      _save(details, ratios, started)


def _save(
  details: Mapping[str, Any],
  ratios: Mapping[str, tuple[float, str]],
  started: float,
) -> None:
  """Writes the record of the networks so far."""
  networks = networks_lib.on(flags.FLAGS.platform)
  record = results.result_json(
    dict(ratios),
    config={
      'networks': {n: networks[n].model for n in networks if n in details},
      'rounds': _ROUNDS.value,
      'threads': _THREADS.value,
      'optimizer': 'adam, rate 1e-3',
    },
    seed=_SEED.value,
    wall_seconds=time.monotonic() - started,
    details=dict(details),
  )
  record['versions'] = results.versions() | peer_versions()
  results.save(_OUT.value, record)


def _require_torch() -> None:
  if importlib.util.find_spec('torch') is None:
    raise ModuleNotFoundError(
      'This benchmark runs PyTorch beside us, and torch is not installed: the '
      'project does not need it. Install it into this environment, '
      f'{sys.executable} -m pip install torch==2.13.0, and run this again.'
    )


def peer_versions() -> dict[str, str]:
  """Versions of what runs beside us."""
  found = {}
  for package in ('torch', 'transformers'):
    with contextlib.suppress(metadata.PackageNotFoundError):
      found[package] = metadata.version(package)
  return found


def _finite(values: np.ndarray) -> list[float | None]:
  """A list that JSON can hold: None for nan."""
  return [float(v) if np.isfinite(v) else None for v in values]


if __name__ == '__main__':
  entry.run(main)
