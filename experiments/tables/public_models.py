"""What public kinds of models cost to bring in, and what they then do.

  ./run.sh tables/public_models
  ./run.sh tables/public_models --out=results/public_models.json --write
  ./run.sh tables/public_models --write    # only the page
  ./run.sh tables/public_models --only=nanodo,maf --steps=5

Each kind of examples/, by its name, goes through the scripts in turn: train (60
steps), evaluate, sample by `ancestral` and by `fixed_point` with the same keys,
compress, audit. Lines of glue are those of the function that makes the record,
without what the network's author wrote. 'planted' is the model with its shift
forgotten: how many pairs the static audit tells of those that perturbation
finds. --write renews the table of docs/own_model.md from
results/public_models.json.
"""

import ast
import dataclasses
import inspect
import json
import pathlib
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import parallel_ar as par
from experiments import entry, inside, options
from experiments.tables import report
from parallel_ar import resolve
from parallel_ar.analysis import causality, static
from parallel_ar.model import AutoregressiveModel

_STEPS = flags.DEFINE_integer('steps', 60, 'Of a training.', lower_bound=1)
_LENGTH = flags.DEFINE_integer('length', 12, 'Symbols.', lower_bound=3)
_COUNT = flags.DEFINE_integer('count', 16, 'Samples.', lower_bound=1)
_ONLY = flags.DEFINE_list('only', [], 'Only these kinds, by name.')
_OUT = options.define_output('out', 'Write the result here, as JSON.')
_WRITE = flags.DEFINE_bool('write', False, 'Renew docs/own_model.md.')

ROOT = pathlib.Path(__file__).parents[2]
RESULT = ROOT / 'results' / 'public_models.json'
PAGE = ROOT / 'docs' / 'own_model.md'
VALUES, SIDE = 7, 4

# kind -> where it is; (the source, what it is written in)
KINDS: dict[str, tuple[str, str]] = {
  'linen_models:nanodo': ('nanodo', 'Linen'),
  'linen_models:lm1b': ('lm1b of Flax', 'Linen'),
  'linen_models:gpt2': ('GPT-2 of Hugging Face', 'Linen'),
  'haiku_models:transformer': ("Haiku's Transformer", 'Haiku'),
  'haiku_models:lstm': ("Haiku's LSTM", 'Haiku'),
  'scans:mamba': ('Mamba', 'jnp'),
  'scans:griffin': ('Griffin', 'jnp'),
  'scans:s5': ('S5', 'jnp'),
  'scans:s4': ('S4', 'jnp'),
  'scans:s4d': ('S4D', 'jnp'),
  'equinox_models:deer_gru': ('GRU of DEER', 'Equinox'),
  'equinox_models:maf': ('MAF of flowjax', 'Equinox'),
  'nnx_models:gemma': ('Gemma of Flax', 'NNX'),
  'plain:mlstm': ('mLSTM of xLSTM', 'jnp'),
  'plain:llama': ('Llama of penzai', 'jnp'),
  'nnx_models:pixelcnn': ('PixelCNN of artifex', 'NNX'),
  'nnx_models:wavenet': ('WaveNet of artifex', 'NNX'),
}


class Row(NamedTuple):
  """What one kind did; numbers are as in the table.

  Attributes:
    parameters: how many.
    start: nats of the first batch.
    end: nats of the test split.
    passes: of `fixed_point`, the mean of a sample.
    size: slots of an event.
    differ: entries of the samples that are not those of ancestral.
    drawn: entries of the samples.
    leaks: forbidden pairs by perturbation.
    proof: what the static audit says.
    planted: pairs by perturbation, with the shift forgotten.
    told: how many of them the static audit tells.
    above: bytes of the codec above the model's own bits, a share; or None.
    refused: why there is no codec.
  """

  parameters: int
  start: float
  end: float
  passes: float
  size: int
  differ: int
  drawn: int
  leaks: int
  proof: str
  planted: int
  told: int
  above: float | None
  refused: str


def main() -> None:
  """Runs the script."""
  started, rows = time.monotonic(), {}
  if _WRITE.value and not _OUT.value:
    _renew()
    return
  kinds = _kinds()
  for kind in kinds:
    with tempfile.TemporaryDirectory() as folder:
      rows[kind] = through(kind, pathlib.Path(folder))
    print(line(kind, rows[kind]), flush=True)
  numbers: report.Numbers = {}
  for kind, row in rows.items():
    for field, value in row._asdict().items():
      if isinstance(value, int | float):
        numbers[f'{kind}: {field}'] = value, _UNITS.get(field, 'number')
  texts = {k: {'proof': r.proof, 'refused': r.refused} for k, r in rows.items()}
  config = {'steps': _STEPS.value, 'length': _LENGTH.value}
  report.save(_OUT.value, numbers, config, started, texts=texts)
  if _WRITE.value:
    _renew()


def _renew() -> None:
  PAGE.write_text(written())
  print(f'table: {PAGE}')


_UNITS = {'start': 'nats', 'end': 'nats', 'above': '1'}


def through(kind: str, folder: pathlib.Path) -> Row:
  """One kind through all scripts, in a working directory of its own."""
  name, run = f'examples.{kind}', folder / 'run'
  words = [f'--workdir={run}']
  inside.run('train', [*words, *_settings(name)])
  inside.run('evaluate', words)
  first = json.loads((run / 'metrics.jsonl').read_text().splitlines()[0])
  drawn = [_drawn(words, folder / f'{how}.npz', how) for how in _SAMPLERS]
  loaded = par.load(run)
  above = _packed(words, folder / 'codec.json')
  inside.run('audit', [*words, f'--out={folder}/audit.json'])
  audit = _numbers(folder / 'audit.json')
  planted = shift_forgotten(loaded.model)
  found = causality.audit(planted, loaded.params, jax.random.key(0))
  proof = static.check(planted)
  told = {*proof.leaks, *proof.undecided}
  undecided = int(audit['static: undecided'])
  return Row(
    parameters=sum(v.size for v in jax.tree.leaves(loaded.params)),
    start=float(first['loss_nats']),
    end=_numbers(run / 'result.json')['nats'],
    passes=float(drawn[1]['passes'].mean()),
    size=loaded.model.rank.size,
    differ=int((drawn[0]['x'] != drawn[1]['x']).sum()),
    drawn=drawn[0]['x'].size,
    leaks=int(audit['leaks'] + audit['static: leaks']),
    proof=f'{undecided} undecided' if undecided else 'proved',
    planted=len(found.leaks),
    told=len(told & set(found.leaks)),
    above=above,
    refused='' if above is not None else _why(loaded.model),
  )


_SAMPLERS = ('ancestral', 'fixed_point')


def _settings(name: str) -> list[str]:
  """The flags of a training: small, with a source of known entropy."""
  if name.endswith(':pixelcnn'):
    sizes = {'data.name': 'lattice', 'data.height': SIDE, 'data.width': SIDE}
    sizes |= {'model.side': SIDE}
  else:
    length = _LENGTH.value
    sizes = {'data.name': 'markov', 'data.length': length}
    sizes |= {'model.length': length, 'data.num_values': VALUES}
    if not name.endswith(':maf'):
      sizes |= {'model.num_values': VALUES}
  sizes |= {'model.name': name, 'data.num_examples': 2000, 'mesh.data': 1}
  sizes |= {'train.steps': _STEPS.value, 'train.log_every': 1}
  sizes |= {'train.eval_every': 0, 'train.keep_best': False}
  sizes |= {'train.ema_decay': 0.0, 'train.tensorboard': False}
  sizes |= {'optimizer.learning_rate': 0.01, 'train.batch_size': 50}
  words = [f'--config.{path}={value}' for path, value in sizes.items()]
  return ['--config=configs/own.py', *words]


def _drawn(words: list[str], out: pathlib.Path, how: str) -> dict[str, Any]:
  more = [f'--count={_COUNT.value}', f'--sampler={how}', f'--out={out}']
  inside.run('sample', [*words, *more])
  with np.load(out) as file:
    return dict(file)


def _packed(words: list[str], out: pathlib.Path) -> float | None:
  """What the codec takes above the model's bits; None where it refuses."""
  more = ['--count=1000', '--methods=stream', '--batches=100', f'--out={out}']
  try:
    inside.run('compress', [*words, *more])
  except ValueError:
    return None
  numbers = _numbers(out)
  assert numbers['stream, batch 100: different'] == 0
  return numbers['stream, batch 100: above the model']


def _why(model: AutoregressiveModel) -> str:
  """Why a codec refuses a model."""
  if model.head.pmf is None:
    return 'none: a density'
  rounds = model.causality == 'rounding'
  return 'refused: rounding' if rounds else 'refused: other bits came back'


def _numbers(path: pathlib.Path) -> dict[str, float]:
  record = json.loads(path.read_text())['numbers']
  return {name: entry['value'] for name, entry in record.items()}


def shift_forgotten(model: AutoregressiveModel) -> AutoregressiveModel:
  """The model that is fed, at each slot, the symbol that it predicts there."""
  slots = par.order.slots(model.rank)
  back = np.argsort(slots)

  def conditionals(params: Any, x: Any, context: Any) -> Any:
    flat = x.reshape(model.rank.size, *x.shape[model.rank.ndim :])
    ahead = jnp.roll(flat[slots], -1, 0)[back]
    return model.conditionals(params, ahead.reshape(x.shape), context)

  return dataclasses.replace(model, conditionals=conditionals, decode=None)


def glue(make: Callable[..., Any]) -> int:
  """Lines that bring a network in: those of its maker, and of what it calls.

  Without the docstring, functions of the network inside, and `shapes`, which
  its author gives.
  """
  tree = ast.parse(textwrap.dedent(inspect.getsource(make))).body[0]
  assert isinstance(tree, ast.FunctionDef)
  count = 0
  for node in tree.body:
    drawn = ast.unparse(node).startswith('shapes')
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    if not (drawn or text or isinstance(node, ast.FunctionDef)):
      assert node.end_lineno is not None
      count += node.end_lineno - node.lineno + 1
  # The glue of those in plain jnp.
  shared = getattr(make, '__globals__', {}).get('model_of')
  called = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
  return count + (glue(shared) if shared and 'model_of' in called else 0)


def line(kind: str, row: Row) -> str:
  """The row of a kind in the table."""
  source, framework = KINDS[kind]
  lines = glue(resolve.find(f'examples.{kind}', {}, 'model'))
  codec = row.refused or f'exact, {row.above:+.1%}'
  return (
    f'| {source} | {framework}, `{kind}` | {lines} '
    f'| {row.leaks} leaks, {row.proof} | {row.told} of {row.planted} '
    f'| {row.passes:.1f} of {row.size} | {row.differ} of {row.drawn} '
    f'| {codec} | {row.start:.1f} to {row.end:.1f} |'
  )


HEADER = (
  '| model | written in, `examples.` | glue, lines | audits | planted | passes '
  '| integers that differ | codec | nats |\n'
  '|---|---|--:|---|--:|--:|--:|---|--:|'
)


def written() -> str:
  """docs/own_model.md with the table that the result makes."""
  record = json.loads(RESULT.read_text())
  numbers = {n: entry['value'] for n, entry in record['numbers'].items()}
  lines = [HEADER]
  for kind in KINDS:
    texts = record['details']['texts'][kind]
    known = {f: numbers.get(f'{kind}: {f}') for f in Row._fields}
    lines.append(line(kind, Row(**(known | texts))))
  table = '<!-- public models -->\n' + '\n'.join(lines) + '\n<!-- end -->'
  pattern = re.compile(r'<!-- public models -->\n.*?<!-- end -->', re.DOTALL)
  return pattern.sub(lambda _: table, PAGE.read_text())


def _kinds() -> list[str]:
  """Those of --only, or all."""
  by_name = {kind.partition(':')[2]: kind for kind in KINDS}
  if unknown := set(_ONLY.value) - set(by_name):
    raise ValueError(
      f'--only={",".join(sorted(unknown))}: the kinds are {", ".join(by_name)}.'
    )
  return [by_name[name] for name in _ONLY.value] or list(KINDS)


if __name__ == '__main__':
  entry.run(main)
