"""The pages hold: every block of Python runs, every command has its flags."""

import itertools
import json
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

import parallel_ar as par
from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [
  ROOT / 'README.md',
  ROOT / 'CONTRIBUTING.md',
  *sorted((ROOT / 'docs').rglob('*.md')),
  ROOT / 'results' / 'README.md',
  ROOT / 'third_party' / 'README.md',
]
# What is not a page, but shows how it is run: configs and scripts.
SOURCES = [
  *sorted((ROOT / 'configs').rglob('*.py')),
  *sorted((ROOT / 'experiments').rglob('*.py')),
]
BLOCK = re.compile(r'^```python\n(.*?)^```', re.DOTALL | re.MULTILINE)


def blocks():
  """'page:line' -> the Python that stands there."""
  for page in PAGES:
    text = page.read_text()
    for match in BLOCK.finditer(text):
      line = text[: match.start()].count('\n') + 1
      yield f'{page.relative_to(ROOT)}:{line}', match.group(1)


def test_figures_of_pages_are_those_of_their_files():
  forms = {
    'pretrained': (
      '| {:.3f} |',
      ['the network, -log2 p', 'xz -9e', 'brotli 11'],
    ),
    'coordinates': (
      'width^{:.2f}',
      ['largest exponent, standard', 'largest exponent, mu-P'],
    ),
  }
  pages = {'pretrained': 'pretrained', 'coordinates': 'optimizers'}
  for name, (form, rows) in forms.items():
    numbers = json.loads((ROOT / f'results/{name}.json').read_text())['numbers']
    text = (ROOT / f'docs/{pages[name]}.md').read_text()
    for row in rows:
      assert form.format(numbers[row]['value']) in text, (name, row)


def of_page(text):
  """The commands of a page: in blocks, in tables and inside sentences."""
  text = re.sub(r'\\\n\s*', ' ', text)
  fence = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
  for language, block in fence.findall(text):
    if language in ('', 'sh', 'bash'):
      for line in block.splitlines():
        yield from of_line(line)
  for piece in re.findall(r'`([^`]+)`', fence.sub('', text)):
    yield from of_line(' '.join(piece.split()))


def of_source(text):
  """The commands of a module's docstring, indented or after 'Command:'."""
  text = re.sub(r'\\\n\s*', ' ', text.split('"""')[1] if '"""' in text else '')
  for line in re.findall(r'^(?:  |Command: )(\./run\.sh .*)$', text, re.M):
    yield from of_line(line)


def of_line(line):
  """The words of each command of a line, up to what the shell does with it."""
  for part in re.sub(r'\$\(.*?\)', '', line).split('./run.sh ')[1:]:
    words = shlex.shlex(part, posix=True, punctuation_chars='|;&<>')
    words.whitespace_split = True
    words.commenters = '#'
    yield tuple(itertools.takewhile(lambda w: set(w) - set('|;&<>'), words))


BLOCKS = dict(blocks())
# Commands of run.sh itself, and words that stand for any script.
_NO_SCRIPTS = (
  'test',
  'docs',
  'dist',
  'env',
  '--help',
  'help',
  'COMMAND',
  'NAME',
  'EXPERIMENT',
)
COMMANDS = sorted(
  {
    (str(path.relative_to(ROOT)), command)
    for paths, read in ((PAGES, of_page), (SOURCES, of_source))
    for path in paths
    for command in read(path.read_text())
  }
)


@pytest.mark.parametrize('place', BLOCKS)
def test_a_block_runs_in_an_interpreter_of_its_own(place):
  done = subprocess.run(
    [sys.executable, '-c', BLOCKS[place]],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('place', sorted({place for place, _ in COMMANDS}))
def test_the_commands_of_a_page_have_their_flags(place):
  wrong = {}
  for page, command in COMMANDS:
    if page == place and (said := _parse(command)):
      wrong[' '.join(command)] = said
  assert not wrong


def _parse(command):
  """What is wrong with a command; ''."""
  script, *words = command or ('help',)
  if script in _NO_SCRIPTS or set(words) & {'...', '--help'}:
    return ''
  if script not in options_test.SCRIPTS:
    return f'there is no script {script}'
  words = [word.replace('TABLE/CELL', 'uci_dna/made') for word in words]
  return options_test.parse(script, words)


def test_modules_that_a_page_runs_have_their_flags():
  module = re.compile(r'python -m ((?:third_party|tests)\.[\w.]+)([^`\n|]*)')
  found = set()
  for page in PAGES:
    text = re.sub(r'\\\n\s*', ' ', page.read_text())
    for name, words in module.findall(text):
      path = (ROOT / name.replace('.', '/')).with_suffix('.py')
      assert path.exists(), (page, name)  # its flags, or those it imports
      source = ''.join(p.read_text() for p in path.parent.glob('*.py'))
      for flag in re.findall(r'--([\w-]+)', words):
        known = re.search(rf"['\"](?:--)?{flag}['\"]", source)
        assert known, (page, name, flag)
      found.add(name)
  assert len(found) >= 3


def test_links_lead_somewhere():
  slug = lambda title: re.sub(r'[^\w -]', '', title.lower()).replace(' ', '-')
  for page in [*PAGES, ROOT / 'CHANGELOG.md']:
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.S | re.M)
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
      if re.match(r'\w+:', link):
        continue
      path, _, part = link.partition('#')
      target = page.parent / path if path else page
      assert target.exists(), f'{page}: {link}'
      if part:
        titles = re.findall(r'^#+ (.*)$', target.read_text(), re.M)
        assert part in map(slug, titles), f'{page}: {link}'


def test_there_are_blocks_and_commands():
  assert len(BLOCKS) >= 6
  assert len(COMMANDS) >= 100


def test_every_public_name_stands_on_the_page_of_the_api():
  text = (ROOT / 'docs' / 'api.md').read_text()
  named = {n.split('.')[-1] for n in re.findall(r'^::: (.*)$', text, re.M)}
  assert not set(par.__all__) - named
