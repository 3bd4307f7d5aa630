"""Samples of a trained run, as a picture, as text or as numbers.

  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --out=samples.png
  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --sampler=ancestral
  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --out=samples.npz
  ./run.sh sample --workdir=runs/digits_gated_pixelcnn --given=image.png \
      --known=mask.png
  ./run.sh sample --workdir=runs/text_transformer --prompt='In the '

Beside a picture or a text the numbers are written, to the same name with .npz.
The same seed gives the same integers with every sampler and every forecaster;
they differ in cost.
"""

import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tqdm
from absl import flags

from experiments import entry, given, hosts, options
from parallel_ar import describe, precision, resolve, samplers, transform
from parallel_ar.distributed import mesh as mesh_lib
from parallel_ar.distributed import multihost
from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import forecasters, learned, path
from parallel_ar.training import (
  bucket,
  datasets,
  pictures,
  run_directory,
  trained,
)

_SAMPLERS = {
  'ancestral': samplers.ancestral,
  'cached': samplers.cached,
  'fixed_point': samplers.fixed_point,
  'gauss_seidel': samplers.gauss_seidel,
  'window': samplers.window,
}

_TEXTS = ('text', 'kjv', 'text8', 'enwik8', 'shakespeare')

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Directory of the data files, for contexts and symbols.'
)
_SAMPLER = options.define_name(
  'sampler',
  'fixed_point',
  list(_SAMPLERS),
  'How to draw; gauss_seidel needs a path by rows, as images have, and window '
  'pays where blocks of slots are evaluated at once; '
  'my.module:function makes one of the model.',
)
_FORECASTER = options.define_name(
  'forecaster',
  'previous',
  [*forecasters.BY_NAME, 'learned'],
  'What fixed_point guesses for positions that are not final: the picks of the '
  'previous pass, zeros, the last final value, the one above, or what followed '
  'the last two symbols before; learned takes the heads that `forecaster` has '
  'trained for the run; my.module:function makes one of the model.',
)
_BATCH = flags.DEFINE_integer(
  'batch', 0, 'Samples drawn at once; 0 draws all of them.', lower_bound=0
)
_COUNT = flags.DEFINE_integer('count', 64, 'Samples to draw.', lower_bound=1)
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the samples.', lower_bound=0)
_TEMPERATURE = flags.DEFINE_float(
  'temperature',
  1.0,
  'Draw from the model whose conditionals are tempered; 1 is the model itself.',
  lower_bound=1e-6,
)
_PARAMS = flags.DEFINE_enum(
  'params', 'auto', ['auto', 'raw', 'ema'], 'Which parameters; see evaluate.'
)
_STEP = flags.DEFINE_integer(
  'step', None, 'Step of the checkpoint.', lower_bound=0
)
_MESH = flags.DEFINE_string(
  'mesh',
  None,
  'Devices of each axis, such as data=4,fsdp=2 or data=-1 for all; without it '
  'the mesh of the run.',
)
_PROMPT = flags.DEFINE_string(
  'prompt', None, 'The first symbols of every sample, for a run of text.'
)
_LABEL = flags.DEFINE_integer(
  'label',
  None,
  'The label of every sample; without it those of the evaluation split.',
  lower_bound=0,
)
_GIVEN = flags.DEFINE_string(
  'given', None, 'A picture, of which --known says what every sample keeps.'
)
_KNOWN = flags.DEFINE_string(
  'known', None, 'A picture, light where the pixels of --given are kept.'
)
_OUT = options.define_output(
  'out',
  'What to write, by its ending: .png of images, .txt of text; of any events '
  '.npy, the integers, or .npz, with log_prob, keys, passes, steps, seed, '
  'context and what was known too; beside a picture or text that is written as '
  'well. Without it samples.* in workdir, what is no default in its name.',
  ['.png', '.txt', '.npy', '.npz'],
)


def main() -> None:
  """Runs the script."""
  hosts.connect()
  workdir = run_directory.resolve(entry.require(_WORKDIR))
  config = trained.read_config(workdir)
  level = precision.scope(config.evaluate.precision)
  with jax.set_mesh(entry.mesh(_MESH.value, config)), level:
    _sample(workdir)


def _sample(workdir: pathlib.Path) -> None:
  run = trained.load(workdir, which=_PARAMS.value, step=_STEP.value)
  if bucket.is_file(workdir):  # of export_params
    workdir = workdir.parent
  model = run.models[0]
  if _TEMPERATURE.value != 1.0:
    model = transform.with_temperature(model, _TEMPERATURE.value)
  print(multihost.devices())
  print(describe(model))
  print(f'parameters: {run.params_name}')
  told = _told(run)
  kind = _kind(model, _symbols(run))
  out = _out(workdir, kind)
  context = None
  if _LABEL.value is not None:
    context = given.label(model, _LABEL.value, _COUNT.value)
  elif model.context is not None:
    data = run.load_split(run.config.evaluate.split, _DATA_DIR.value)
    context = datasets.contexts(model, data, _COUNT.value)
  started = time.monotonic()
  sample = _draw(model, run.params, context, told)
  seconds, info = time.monotonic() - started, sample.info
  print(
    f'{_SAMPLER.value}: {_COUNT.value} samples in {seconds:.2f} s with '
    f'compilation, mean {-sample.log_prob.mean():.2f} nats'
  )
  print(
    f'passes that prove: mean {info.passes.mean():.1f}, max '
    f'{info.passes.max()}, depth {model.depth}; steps that guess before them: '
    f'mean {info.steps.mean():.1f}'
  )
  print(
    f'guesses that the passes put right: {info.repaired.sum()}; path of the '
    f'cache: {path.KINDS[info.path.max()]}'
  )
  _refuse(model, info)
  _write(out, kind, sample, context, told)


def _symbols(run: trained.Trained) -> bytes | None:
  """Those of a run of text; an old one, without identity, asks the data."""
  if run.symbols is not None or run.config.data.name not in _TEXTS:
    return run.symbols
  split = run.config.evaluate.split
  return run.load_split(split, _DATA_DIR.value).symbols


def _told(run: trained.Trained) -> given.Given | None:
  """What --prompt, or --given with --known, say of every sample."""
  if (_GIVEN.value is None) != (_KNOWN.value is None):
    raise ValueError(
      '--given=image.png and --known=mask.png go together: the mask is light '
      'where the pixels of the image are kept.'
    )
  if _PROMPT.value is not None and _GIVEN.value is not None:
    raise ValueError('--prompt is for text, --given for images: give one.')
  if _PROMPT.value is not None:
    return given.prompt(run, _PROMPT.value, _COUNT.value)
  if _GIVEN.value is None or _KNOWN.value is None:
    return None
  return given.image(run.models[0], _GIVEN.value, _KNOWN.value, _COUNT.value)


def _refuse(model: AutoregressiveModel, info: samplers.SampleInfo) -> None:
  """Refuses samples that contradict their model, or are no numbers."""
  if model.causality == 'exact' and np.any(info.changed):
    raise ValueError(
      f'{model.name} is not causal: {np.sum(info.changed)} positions picked '
      'something else in a pass after they were final, so these are no samples '
      'of it. ./run.sh audit --workdir finds what reads the future.'
    )
  if np.any(info.not_finite):
    raise ValueError(
      f'{np.sum(info.not_finite)} values drawn from {model.name} are not '
      'finite, so nothing is written. Look at its parameters and scales.'
    )


def _draw(
  model: AutoregressiveModel,
  params: Any,
  context: Any,
  told: given.Given | None,
) -> Any:
  """Draws --count samples in batches of --batch, with a bar on a terminal."""
  if _SAMPLER.value == 'fixed_point':
    draw = samplers.fixed_point(model, _forecaster(model))
  elif _FORECASTER.value != 'previous':
    raise ValueError(
      f'--forecaster={_FORECASTER.value} goes with --sampler=fixed_point; '
      f'--sampler={_SAMPLER.value} has guesses of its own.'
    )
  else:
    name = _SAMPLER.value
    make = resolve.find(name, _SAMPLERS, 'sampler')
    draw = resolve.call(name, 'sampler', make, model)
  keys = _keys()
  known = {} if told is None else told._asdict()
  size = _BATCH.value or _COUNT.value
  parts = []
  starts = range(0, _COUNT.value, size)
  for i in tqdm.tqdm(starts, unit='batch', disable=None):  # on a terminal only
    # Copies of the last one fill what the mesh would leave over.
    end = min(i + size, _COUNT.value)
    rows = np.minimum(np.arange(i, i + mesh_lib.round_up(end - i)), end - 1)
    some = jax.tree.map(lambda c, b=rows: c[b], (keys, context, known))
    *args, some = mesh_lib.place(some)
    drawn = multihost.fetch(draw(params, *args, **some))
    cut = lambda v, n=end - i: v[:n] if v.ndim else v
    parts.append(jax.tree.map(cut, drawn))
  return jax.tree.map(
    lambda *a: np.concatenate([np.atleast_1d(v) for v in a]), *parts
  )


def _keys() -> jax.Array:
  """One for each sample."""
  return jax.random.split(jax.random.key(_SEED.value), _COUNT.value)


def _forecaster(model: AutoregressiveModel) -> forecasters.Forecaster:
  if _FORECASTER.value != 'learned':
    name = _FORECASTER.value
    make = resolve.find(name, forecasters.BY_NAME, 'forecaster')
    found = resolve.call(name, 'forecaster', make, model)
    kind, how = forecasters.Forecaster, 'par.forecasters.last(model)'
    return resolve.returned(name, 'forecaster', found, kind, how)
  run = run_directory.resolve(entry.require(_WORKDIR))
  if bucket.is_file(run):  # its heads stand beside a file of parameters
    run = run.parent
  path = run / 'forecaster.npz'
  if not bucket.is_file(path):
    raise ValueError(
      f'--forecaster=learned needs {path}. Train the heads on the directory of '
      f'the run first: ./run.sh forecaster --workdir={run}'
    )
  return learned.forecaster(model, learned.load(bucket.readable(path), model))


class _Kind(NamedTuple):
  """What a file holds, and who writes it."""

  ending: str
  save: Callable[..., None]


def _kind(model: AutoregressiveModel, symbols: bytes | None) -> _Kind:
  """How samples of this event are best looked at."""
  if pictures.is_image(model.event.shape) and model.head.num_values:
    values = model.head.num_values
    save = lambda out, x: pictures.save_grid(x, out, num_values=values)
    return _Kind('.png', save)
  if symbols is not None:
    table = np.frombuffer(symbols, np.uint8)
    texts = lambda x: (table[np.asarray(row)].tobytes() for row in x)
    save = lambda out, x: run_directory.replace(out, b'\n\n'.join(texts(x)))
    return _Kind('.txt', save)
  return _Kind('.npy', _save_array)


def _save_array(out: pathlib.Path, x: np.ndarray) -> None:
  with run_directory.whole(out) as file:
    np.save(file, x)


def _out(workdir: pathlib.Path, kind: _Kind) -> pathlib.Path:
  """Where samples go; without --out the name tells what drew them.

  Raises:
    ValueError: a name whose ending these events have no form for, or a
      directory where nothing can be written.
  """
  named = ('count', 'seed', 'temperature', 'step', 'params', 'label')
  given = [(n, flags.FLAGS[n]) for n in named]
  parts = [f'_{n}{f.value}' for n, f in given if f.value != f.default]
  out = run_directory.resolve(
    _OUT.value or workdir / f'samples{"".join(parts)}{kind.ending}'
  )
  known = list(dict.fromkeys((kind.ending, '.npy', '.npz')))
  if out.suffix not in known:
    raise ValueError(
      f'--out={out}: the samples of this run are written as '
      f'{" or ".join(known)}, by the ending of the name.'
    )
  options.check_writable(out)
  return out


def _write(
  out: pathlib.Path,
  kind: _Kind,
  sample: samplers.Sample,
  context: Any,
  told: given.Given | None,
) -> None:
  """Writes the integers, or all numbers, and a picture or text beside them."""
  if out.suffix == '.npy':
    _save_array(out, np.asarray(sample.x))
  else:
    if out.suffix != '.npz':
      kind.save(out, sample.x)
      print(f'samples: {out}')
      out = out.with_suffix('.npz')
    named: dict[str, Any] = {
      'x': sample.x,
      'log_prob': sample.log_prob,
      'keys': jax.random.key_data(_keys()),
      'passes': sample.info.passes,
      'steps': sample.info.steps,
      'seed': np.uint32(_SEED.value),
      'temperature': np.float64(_TEMPERATURE.value),
    }
    for i, leaf in enumerate(jax.tree.leaves(context)):
      named[f'context_{i}'] = np.asarray(leaf)
    if told is not None:
      named['known'] = told.known
    with run_directory.whole(out) as file:
      np.savez(file, **named)
  print(f'samples: {out}')


if __name__ == '__main__':
  entry.run(main, connects=True)
