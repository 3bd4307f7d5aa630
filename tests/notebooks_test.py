"""The notebooks run from top to bottom, and print what stands in them.

python -m tests.notebooks_test --write    # runs them, and keeps what they print
"""

import contextlib
import io
import json
import pathlib
import re
import sys

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))
pytestmark = pytest.mark.long
_NUMBER = re.compile(r'-?\d+(?:\.\d+)?(?:e-?\d+)?')


def run(notebook):
  """The cells with what they print, as Jupyter stores it."""
  names = {'__name__': '__main__'}
  for count, cell in enumerate(code(notebook), 1):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      exec(compile(''.join(cell['source']), f'<cell {count}>', 'exec'), names)
    yield cell, printed.getvalue()


def code(notebook):
  return [c for c in notebook['cells'] if c['cell_type'] == 'code']


def stored(cell):
  return ''.join(''.join(output['text']) for output in cell['outputs'])


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_prints_what_stands_there(path):
  """Words as they are; numbers to a tenth, since machines differ."""
  for cell, printed in run(json.loads(path.read_text())):
    assert _NUMBER.sub('#', printed) == _NUMBER.sub('#', stored(cell))
    of = lambda text: np.array(_NUMBER.findall(text), float)
    np.testing.assert_allclose(of(printed), of(stored(cell)), rtol=0.1)


def test_three_notebooks_say_what_they_do():
  assert len(NOTEBOOKS) >= 3
  for path in NOTEBOOKS:
    first, *_ = json.loads(path.read_text())['cells']
    assert first['source'][0].startswith('# ')


def write():
  """Runs every notebook, and keeps what its cells print."""
  for path in NOTEBOOKS:
    notebook = json.loads(path.read_text())
    for count, (cell, printed) in enumerate(run(notebook), 1):
      lines = printed.splitlines(keepends=True)
      output = {'name': 'stdout', 'output_type': 'stream', 'text': lines}
      cell['outputs'] = [output] if lines else []
      cell['execution_count'] = count
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + '\n')


if __name__ == '__main__' and '--write' in sys.argv:
  write()
