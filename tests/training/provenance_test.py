"""Every file in results/ names a commit that exists, of a clean tree."""

import json
import pathlib
import re
import subprocess

import pytest

from parallel_ar.training import results

ROOT = pathlib.Path(results.__file__).parents[2]
FROZEN = '2026-11-25'  # the last day of files of before the rule
ABSENT, DIRTY = 'commit not in this repository', 'dirty tree'


def git(*arguments):
  return subprocess.run(
    ('git', '-C', str(ROOT), *arguments), capture_output=True, text=True
  )


@pytest.fixture(scope='module')
def history():
  """Every commit that HEAD grew from."""
  if not (ROOT / '.git').exists():
    pytest.skip('not a checkout: commits cannot be looked up')
  if git('rev-parse', '--is-shallow-repository').stdout.strip() != 'false':
    pytest.skip('a shallow clone, which lacks the history')
  return frozenset(git('rev-list', 'HEAD').stdout.split())


def faults(record, history):
  """What does not hold of a record's commit, as in the list."""
  commit, _, mark = str(record.get('commit')).partition('-')
  found = [] if commit in history else [ABSENT]
  return ', '.join([*found, DIRTY] if mark else found)


def test_files_name_a_commit_or_are_listed(history):
  text = (ROOT / 'results' / 'README.md').read_text()
  listed = {
    name: (date, what)
    for name, date, what in re.findall(
      r'^\| \[`(.+?)`\]\(\1\) \| (\S+) \| (.+) \|$', text, re.MULTILINE
    )
  }
  seen = {}
  for path in sorted((ROOT / 'results').rglob('*.json')):
    record = json.loads(path.read_text())
    told = {'cpu', 'cores', 'device_kind', 'num_devices'}
    assert told <= record['hardware'].keys(), path
    what = faults(record, history)
    if what:
      name = path.relative_to(ROOT / 'results').as_posix()
      seen[name] = record['date'], what
  assert seen == listed, 'make new files from a clean, landed commit'
  assert all(date <= FROZEN for date, _ in listed.values())


def test_what_a_script_writes_as_a_result_is_a_record():
  found = 0
  for path in (ROOT / 'experiments').rglob('*.py'):
    text = path.read_text()
    if 'Write the result here, as JSON' in text:
      assert re.search(r'\b(report|results)\.save\(', text), path
      found += 1
  assert found > 30


def test_faults_are_seen(history):
  (head, *_) = history
  assert faults({'commit': head}, history) == ''
  assert faults({'commit': f'{head}-dirty'}, history) == DIRTY
  assert faults({'commit': 'a' * 40}, history) == ABSENT
  for commit in ('unknown', None, ''):
    assert faults({'commit': commit}, history) == ABSENT
  assert faults({}, history) == ABSENT


def test_a_dirty_tree_is_told_where_results_are_kept(tmp_path, capsys):
  kept = ROOT / 'results' / 'none.json'
  results.warn_of_commit(kept, 'a' * 40 + '-dirty')
  assert 'dirty' in capsys.readouterr().err
  results.warn_of_commit(kept, 'unknown')
  assert 'unknown' in capsys.readouterr().err
  results.warn_of_commit(kept, 'a' * 40)
  results.warn_of_commit(tmp_path / 'none.json', 'a' * 40 + '-dirty')
  assert capsys.readouterr().err == ''
