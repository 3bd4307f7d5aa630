"""The points of a sweep, from the words of its command alone.

A launcher reads the same words as the script, without its flags; both check
every point before the first run.
"""

import hashlib
import itertools
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags

from experiments import options
from parallel_ar.training import configuration

_OWN = ('grid', 'seeds', 'jobs', 'name', 'workdir')
_MOST = 10_000  # runs of one sweep


def points(words: list[str]) -> dict[str, list[str]]:
  """The flags of `train` for every run of a sweep, but for --workdir.

  Args:
    words: those of the command: --config=..., --grid=field=a,b, --seeds=3.

  Returns:
    name of its directory -> flags.

  Raises:
    ValueError: no --config, a --grid without values, twice the same field, one
      that is also fixed by a flag, or more runs than anyone means.
  """
  for flag in ('config', *_OWN):
    if f'--{flag}' in words or (flag == 'config' and not _values(words, flag)):
      raise ValueError(
        f'A sweep takes --{flag}=..., with the sign =, in one word.'
      )
  shared = [w for w in words if _flag(w) not in _OWN]
  fixed = {_flag(word) for word in shared}
  axes: dict[str, list[str]] = {}
  for text in _values(words, 'grid'):
    field, _, listed = text.partition('=')
    values = _split(listed)
    if not re.fullmatch(r'\w+(\.\w+)*', field) or '' in values:
      raise ValueError(
        f'--grid={text}: expected a field of the config and its values, as in '
        '--grid=optimizer.learning_rate=0.001,0.01.'
      )
    if field in axes or f'config.{field}' in fixed:
      raise ValueError(f'{field} is given twice: once is enough.')
    if repeated := {v for v in values if values.count(v) > 1}:
      raise ValueError(f'--grid={text}: {", ".join(repeated)} stands twice.')
    axes[field] = values
  seeds = int(([*_values(words, 'seeds'), '1'])[0])
  if seeds > 1:
    if 'seed' in axes or 'config.seed' in fixed:
      raise ValueError('--seeds counts seeds; leave config.seed out.')
    axes['seed'] = [str(n) for n in range(seeds)]
  count = 1
  for values in axes.values():
    count *= len(values)
  if count > _MOST:
    raise ValueError(f'{count} runs are more than {_MOST}: a grid multiplies.')
  return {
    _name(pairs): [*shared, *(f'--config.{f}={v}' for f, v in pairs)]
    for pairs in (
      tuple(zip(axes, chosen, strict=True))
      for chosen in itertools.product(*axes.values())
    )
  }


def check(words: Sequence[Sequence[str]]) -> None:
  """Checks the configs of all points, before any of them is run.

  Args:
    words: the flags of `train` for each.

  Raises:
    ValueError: a field that there is not, with the nearest that there is; a
      value of another type, or one that no run can have.
  """
  before, mine = sys.argv, ['']
  try:
    for point in words:
      mine = [word for word in point if re.match('--?(no)?config[.=]', word)]
      sys.argv = ['check', *mine]  # where such flags look for each other
      values = flags.FlagValues()
      options.define_config(values=values)
      values(sys.argv)
      options.settle(values, sys.argv)
      configuration.validate(values['config'].value)
  except (
    flags.Error,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
  ) as error:
    raise ValueError(f'{" ".join(mine[1:])}: {error}') from error
  finally:
    sys.argv = before


def config(words: list[str]) -> str:
  """The file of --config."""
  return _values(words, 'config')[-1].partition(':')[0]


def place(words: list[str]) -> str:
  """Where the runs of a sweep lie."""
  if given := _values(words, 'workdir'):
    return given[-1]
  path, _, part = _values(words, 'config')[-1].partition(':')
  name = _values(words, 'name')[-1:] or [pathlib.Path(path).stem, part]
  return str(pathlib.Path('runs', 'sweeps', *name))


def _name(pairs: tuple[tuple[str, str], ...]) -> str:
  """A directory's name: fields by their last word, and what they are."""
  short = [field.rpartition('.')[2] for field, _ in pairs]
  words = []
  for last, (field, value) in zip(short, pairs, strict=True):
    shown = re.sub(r'[^\w.+-]+', '_', value)
    words.append(f'{last if short.count(last) == 1 else field}={shown}')
  name = ','.join(words) or 'run'
  if len(name) <= 100 and all(re.fullmatch(r'[\w.+-]+', v) for _, v in pairs):
    return name
  digest = hashlib.sha256(repr(pairs).encode()).hexdigest()[:8]
  return f'{name[:100]}-{digest}'


def _split(text: str) -> list[str]:
  """'a,(1,2),c' at the commas that no bracket holds."""
  depth, parts = 0, ['']
  for letter in text:
    depth += (letter in '([') - (letter in ')]')
    if letter == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _flag(word: str) -> str:
  return word.lstrip('-').partition('=')[0]


def _values(words: list[str], flag: str) -> list[str]:
  return [w.partition('=')[2] for w in words if _flag(w) == flag and '=' in w]
