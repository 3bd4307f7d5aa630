"""Trains the model of a config, resumes a stopped run, evaluates at the end.

  ./run.sh train --config=configs/digits_gated_pixelcnn.py
  ./run.sh train --config=configs/digits_gated_pixelcnn.py \
      --config.train.steps=200 --config.model.features=16 --workdir=runs/small

The same command goes on where a killed run stopped. The working directory
holds config.json, metrics.jsonl, checkpoints/, tensorboard/, samples/ and, at
the end, result.json. Without --workdir its name tells what differs from the
config file. A directory keeps what its run is: a start with another config,
other data or another precision is refused, or allowed by --allow_changes and
told in every result (docs/checkpoints.md).
"""

import hashlib
import pathlib
import re
import sys
import time

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import entry, fitting, hosts, options
from parallel_ar import describe
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.training import (
  configuration,
  datasets,
  evaluate,
  identity,
  interrupt,
  loop,
  outcome,
  owner,
  results,
  run_directory,
)

_CONFIG = options.define_config()
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory of the run; without it runs/<name of the config>, and what the '
  'flags change of it.',
)
_NAME = flags.DEFINE_string(
  'name',
  None,
  'Without --workdir: the directory is runs/NAME, and what the flags change is '
  'in it as a digest only.',
)
_CHANGES = flags.DEFINE_bool(
  'allow_changes',
  False,
  'Go on with other settings than those the run began with, and note it.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)
_PROFILE = flags.DEFINE_integer(
  'profile', 0, 'Trace so many steps into profile/ of the run.', lower_bound=0
)
_STOP_CODE = flags.DEFINE_integer(
  'stop_code',
  interrupt.EXIT_CODE,
  'Exit code of a run that SIGTERM or SIGUSR1 stopped, with all saved: for a '
  'scheduler that takes 0 for the end of the work.',
  lower_bound=0,
  upper_bound=255,
)
_RESULT = options.define_output(
  'result', 'Also write the result here, e.g. results/bmnist_made.json.'
)

_NOT_BEGUN = (
  'stopped while the processes came together; there was nothing to save. The '
  'same command begins, or goes on.'
)
_ONLY_TEST = (
  'stopped in the evaluation on the test split. All training is saved; the '
  'same command evaluates again.'
)


def main() -> None:
  """Runs the script."""
  config = entry.require(_CONFIG)
  interrupt.leave_with(_STOP_CODE.value)
  with interrupt.StopSignals(_NOT_BEGUN):
    hosts.connect(saves=True)
  default = _default(config)
  workdir = run_directory.resolve(_WORKDIR.value or default)
  if multihost.is_first():
    print(f'directory: {workdir}', file=sys.stderr)
  config = datasets.fill(config, _DATA_DIR.value)
  with owner.take(workdir) as held:
    summary = loop.train(
      config,
      workdir,
      data_dir=_DATA_DIR.value,
      profile=_PROFILE.value,
      allow_changes=_CHANGES.value,
      held=held,
    )
    _evaluate(summary, workdir)


def _default(config: ConfigDict) -> pathlib.Path:
  """A directory that no other recipe has: the file's, and what differs.

  Raises:
    ValueError: there is no such config file.
  """
  name = config_flags.get_config_filename(flags.FLAGS['config'])
  path, _, part = name.partition(':')  # configs/paper.py:uci_dna/made
  plain = fitting.read(path, *([part] if part else []))
  law, _, free = identity.changes(
    *({'config': configuration.to_json(c)} for c in (plain, config))
  )
  lines = law + [line for line in free if line.startswith('data.path:')]
  place = pathlib.Path('runs') / pathlib.Path(path).stem / part
  if _NAME.value is not None:
    if _NAME.value in ('', '.', '..') or '/' in _NAME.value:
      raise ValueError(
        f'--name={_NAME.value}: expected a name of a directory below runs/; '
        'another place is --workdir.'
      )
    place = pathlib.Path('runs') / _NAME.value
  if not lines:
    return place
  words = [place.name]
  for line in lines if _NAME.value is None else []:
    field, _, change = line.partition(': ')
    value = re.sub(r'[^\w.+-]+', '_', change.rpartition(' -> ')[2]).strip('_')
    words.append(f'{field.rpartition(".")[2]}={value}')
  digest = hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:8]
  return place.with_name(f'{"-".join(words)[:100]}-{digest}')


def _evaluate(summary: outcome.Summary, workdir: pathlib.Path) -> None:
  """Evaluates the end of a training on its test split."""
  started, config = time.monotonic(), summary.config
  test = datasets.load_split(config, config.evaluate.split, _DATA_DIR.value)
  mesh = jax.set_mesh(mesh_lib.make(config.mesh))
  with mesh, interrupt.StopSignals(_ONLY_TEST) as signals:
    evaluation = evaluate.evaluate(
      summary.models,
      summary.params,
      test,
      config.evaluate.batch_size,
      params_name=summary.params_name,
      level=config.evaluate.precision,
      poll=lambda: _leave_if_asked(signals, summary, workdir),
    )
  if not multihost.is_first():
    return
  print(evaluation)
  record = results.of_evaluation(
    evaluation,
    config,
    summary.seconds + time.monotonic() - started,
    model=describe(summary.models[0]),
    valid_nats=summary.valid_nats,
    stopped=summary.stopped,
  )
  paths = [workdir / 'result.json']
  if _RESULT.value:
    paths.append(run_directory.resolve(_RESULT.value))
  for path in paths:
    results.save(path, record)
    print(f'result: {path}')


def _leave_if_asked(
  signals: interrupt.StopSignals,
  summary: outcome.Summary,
  workdir: pathlib.Path,
) -> None:
  """Leaves the evaluation, of several processes all at the same batch."""
  if (name := signals.asked()) is None:
    return
  if multihost.is_first():
    print(f'{name}: {_ONLY_TEST}', file=sys.stderr, flush=True)
  raise interrupt.Interrupted(name, int(summary.state.step), str(workdir))


if __name__ == '__main__':
  entry.run(main, connects=True)
