"""A network that others trained: exact rate, samples, and files, on real text.

  pip download --no-deps --no-binary :all: textgenrnn==2.0.0
  ./run.sh tables/pretrained --package=textgenrnn-2.0.0.tar.gz

Texts are the lines of --text, or the one-line summaries of the packages that
are installed here; what has characters that the network does not know is left
out. Bits are of each character of a line and its end, so all rows have the same
characters. xz and brotli pack all lines as one file.
"""

import hashlib
import importlib.metadata
import lzma
import math
import pathlib
import time
from typing import Any

import jax
import numpy as np
from absl import flags

import parallel_ar as par
from examples import textgenrnn
from experiments import entry, options
from experiments.tables import report

_PACKAGE = flags.DEFINE_string('package', None, 'The file textgenrnn-2.0.0.')
_TEXT = flags.DEFINE_string('text', None, 'A text file, a text a line.')
_LENGTH = flags.DEFINE_integer(
  'length', 48, 'Characters of a text, with its end, at most.', lower_bound=2
)
_COUNT = flags.DEFINE_integer('count', 64, 'Texts, at most.', lower_bound=1)
_FILES = flags.DEFINE_integer(
  'files', 8, 'Texts that are packed and unpacked.', lower_bound=1
)
_SAMPLES = flags.DEFINE_integer('samples', 8, 'Texts drawn.', lower_bound=1)
_OUT = options.define_output('out', 'Write the result here, as JSON.')


def main() -> None:
  """Runs the script."""
  started = time.monotonic()
  package = entry.require(_PACKAGE)
  if not pathlib.Path(package).is_file():
    raise ValueError(
      f'--package={package}: no such file. Get it with: pip download --no-deps '
      '--no-binary :all: textgenrnn==2.0.0'
    )
  params, vocabulary = textgenrnn.load(package)
  texts = _texts(vocabulary)
  length = _LENGTH.value
  model = textgenrnn.model(params, length)
  rows = [np.array([vocabulary[c] for c in text]) for text in texts]
  x = par.padded(rows, length=length, end=textgenrnn.END)
  numbers = _rates(model, params, texts, x)
  numbers |= _files(model, params, x[: _FILES.value])
  numbers |= _samples(model, params, vocabulary)
  digest = hashlib.sha256('\n'.join(texts).encode()).hexdigest()
  config = {'length': length, 'texts': len(texts), 'source': _TEXT.value}
  config |= {'sha256 of the texts': digest}
  report.save(_OUT.value, numbers, config, started)


def _texts(vocabulary: dict[str, int]) -> list[str]:
  """Lines that the network can read, cut where they are too long."""
  if _TEXT.value is not None:
    lines = pathlib.Path(_TEXT.value).read_text().splitlines()
  else:
    found: Any = importlib.metadata.distributions()
    lines = sorted({d.metadata.get('Summary', '') for d in found})
  known = set(vocabulary) - {'<s>'}
  cut = [line.strip()[: _LENGTH.value - 1] for line in lines]
  texts = [t for t in cut if t and set(t) <= known][: _COUNT.value]
  if not texts:
    raise ValueError('No line of the text has known characters only.')
  return texts


def _rates(
  model: par.AutoregressiveModel, params: dict, texts: list[str], x: np.ndarray
) -> report.Numbers:
  """Bits of a character by the likelihood, and by general compressors."""
  nats = np.asarray(jax.jit(par.log_prob, static_argnums=0)(model, params, x))
  packed = ('\n'.join(texts) + '\n').encode()
  characters = sum(len(text) + 1 for text in texts)
  extreme = 9 | lzma.PRESET_EXTREME
  bits = {
    'the network, -log2 p': -nats.sum() / math.log(2),
    'xz -9e': 8 * len(lzma.compress(packed, preset=extreme)),
  }
  try:
    import brotli

    bits['brotli 11'] = 8 * len(brotli.compress(packed, quality=11))
  except ImportError:
    print('(pip install brotli adds its row)')
  print(f'{len(texts)} texts, {characters} characters\n')
  print('| | bits a character |\n|---|--:|')
  rates = {name: float(count) / characters for name, count in bits.items()}
  for name, rate in rates.items():
    print(f'| {name} | {rate:.3f} |')
  return {name: (rate, 'bits/char') for name, rate in rates.items()}


def _files(
  model: par.AutoregressiveModel, params: dict, x: np.ndarray
) -> report.Numbers:
  """Real files of a few texts, unpacked again."""
  pair = par.codec(model, method='stream')
  packed = pair.encode(params, x)
  wrong = int((np.asarray(pair.decode(params, packed).x) != x).sum())
  print(f'| {len(x)} texts as a file: {len(packed)} bytes | {wrong} differ |')
  return {
    'file': (float(len(packed)), 'bytes'),
    'file differs': (float(wrong), 'integers'),
  }


def _samples(
  model: par.AutoregressiveModel, params: dict, vocabulary: dict[str, int]
) -> report.Numbers:
  """Texts of the same keys by two samplers, at temperature 1/2."""
  letters = {number: letter for letter, number in vocabulary.items()}
  cool = par.with_temperature(model, 0.5)
  keys = jax.random.split(jax.random.key(0), _SAMPLES.value)
  slow = par.ancestral(cool)(params, keys)
  fast = par.fixed_point(cool)(params, keys)
  differ = int((slow.x != fast.x).sum())
  passes = float(np.mean(fast.info.passes))
  print(f'\nfixed_point: {passes:.1f} passes of {_LENGTH.value}, ', end='')
  print(f'{differ} of {slow.x.size} integers differ from ancestral\n')
  for row in np.asarray(slow.x):
    ended = row[: np.argmax(row == textgenrnn.END)] if 464 in row else row
    print(f'    {"".join(letters.get(int(n), "") for n in ended)}')
  return {
    'passes': (passes, 'passes'),
    'samplers differ': (float(differ), 'integers'),
  }


if __name__ == '__main__':
  entry.run(main)
