"""Exact likelihood of a whole split under a trained run.

  ./run.sh evaluate --workdir=runs/digits_gated_pixelcnn --split=test
  ./run.sh evaluate --workdir=runs/digits_gated_pixelcnn --oracle=8 \
      --dump=per_example.csv

Every example counts once: the last batch is padded and the padding masked.
"""

import csv
import dataclasses
import io
import time

import jax
import numpy as np
from absl import flags

from experiments import entry, hosts, options
from parallel_ar import describe, likelihood, precision
from parallel_ar.data import dataset
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.training import (
  datasets,
  evaluate,
  results,
  run_directory,
  trained,
)

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_SPLIT = flags.DEFINE_string(
  'split',
  None,
  'train, valid, test, or several of them, as in valid,test; '
  'without it that of the config.',
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files; ./data without it.'
)
_PARAMS = flags.DEFINE_enum(
  'params',
  'auto',
  ['auto', 'raw', 'ema'],
  'Which parameters: the last ones, their moving average, or what the run '
  'itself validates.',
)
_STEP = flags.DEFINE_integer(
  'step',
  None,
  'Step of the checkpoint; without it the best, or the newest.',
  lower_bound=0,
)
_BATCH = flags.DEFINE_integer(
  'batch_size',
  None,
  'Examples of one pass; without it that of the config.',
  lower_bound=1,
)
_DUMP = options.define_output(
  'dump', 'Write the nats of every example to this CSV file.', ['.csv']
)
_ORACLE = flags.DEFINE_integer(
  'oracle',
  0,
  'Also evaluate this many examples one rank after another.',
  lower_bound=0,
)
_MESH = flags.DEFINE_string(
  'mesh',
  None,
  'Devices of each axis, such as data=4,fsdp=2 or data=-1 for all; without it '
  'the mesh of the run.',
)
_RESULT = options.define_output('result', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  hosts.connect()
  config = trained.read_config(entry.require(_WORKDIR))
  level = precision.scope(config.evaluate.precision)
  with jax.set_mesh(entry.mesh(_MESH.value, config)), level:
    _evaluate()


def _evaluate() -> None:
  started = time.monotonic()
  run = trained.load(
    entry.require(_WORKDIR), which=_PARAMS.value, step=_STEP.value
  )
  print(multihost.devices())
  print(describe(run.models[0]))
  splits = (_SPLIT.value or run.config.evaluate.split).split(',')
  source = run.config.data.name
  for split in splits:  # before the first of them is worked on
    if ':' not in source:  # one's own knows its own splits
      dataset.check_split(source, split.strip())
  if len(splits) > 1 and (_DUMP.value or _RESULT.value):
    raise ValueError(
      f'--split={_SPLIT.value} is {len(splits)} splits, but --dump and '
      '--result are files of one: name one split for them.'
    )
  for split in splits:
    _of_split(run, split.strip(), started)


def _of_split(run: trained.Trained, split: str, started: float) -> None:
  data = run.load_split(split, _DATA_DIR.value)
  evaluation = evaluate.evaluate(
    run.models,
    run.params,
    data,
    _BATCH.value or run.config.evaluate.batch_size,
    params_name=run.params_name,
    level=run.config.evaluate.precision,
  )
  print(evaluation)
  if data.entropy is not None:
    excess = evaluation.nats - data.entropy
    print(
      f'entropy of the source {data.entropy:.4f} nats: '
      f'KL estimate {excess:.4f} nats ({excess / data.entropy:.2%})'
    )
  if _ORACLE.value:
    _check_oracle(run, data, evaluation)
  if _DUMP.value:
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    writer.writerow(['example', 'nats'])
    writer.writerows(enumerate(evaluation.per_example.tolist()))
    run_directory.replace(_DUMP.value, text.getvalue())
    print(f'per example: {_DUMP.value}')
  if _RESULT.value:
    seconds = time.monotonic() - started
    record = results.of_evaluation(evaluation, run.config, seconds)
    results.save(_RESULT.value, record)
    print(f'result: {_RESULT.value}')


def _check_oracle(
  run: trained.Trained, data: dataset.Dataset, evaluation: evaluate.Evaluation
) -> None:
  """Prints how far one pass is from the sequential oracle."""
  if len(run.models) > 1:
    raise ValueError(
      f'--oracle takes one model; this run is a mixture of {len(run.models)}.'
    )
  count = min(_ORACLE.value, len(data))
  first = np.asarray(data.x[:count])
  head = dataset.binarize_once(dataclasses.replace(data, x=first))
  context = datasets.contexts(run.models[0], data, count)
  oracle = jax.jit(likelihood.sequential_log_prob, static_argnums=0)
  x = jax.numpy.asarray(head.x, run.models[0].event.dtype)
  x, context = mesh_lib.place((x, context))
  found = oracle(run.models[0], run.params, x, context)
  sequential = -multihost.fetch(found)
  gap = np.abs(sequential - evaluation.per_example[:count]).max()
  print(
    f'sequential oracle, {run.models[0].depth} passes on {count} examples: '
    f'{sequential.mean():.6f} nats, largest difference {gap:.2e} nats'
  )


if __name__ == '__main__':
  entry.run(main, connects=True)
