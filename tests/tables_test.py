"""The paper tables: cells, published numbers, the join, the pages."""

import csv
import json
import math
import subprocess

import jax
import numpy as np
import pytest
from absl.testing import flagsaver

from configs import paper
from experiments.tables import join, measured, whole_numbers
from experiments.tables import paper as script
from parallel_ar import models
from parallel_ar.training import configuration


@pytest.mark.parametrize('name', paper.CELLS)
def test_cells_are_runs(name):
  config = paper.get_config(name)
  configuration.validate(config)
  with config.unlocked():
    if config.model.get('num_masks', 0) > 2:
      config.model.num_masks = 2  # building all of them takes a while
  model = models.build(config.model)[0]
  assert jax.eval_shape(model.init, jax.random.key(0))
  assert paper.CELLS[name].minutes > 0


def test_an_unknown_cell():
  with pytest.raises(ValueError, match='no cell .uci_dna.mode.. Did you'):
    paper.get_config('uci_dna/mode')


@pytest.mark.parametrize('table', join.TITLES)
def test_tables_are_joined(table):
  lines = join.lines(table)
  published = join.published(table)
  names = [line.published.model for line in lines if line.published]
  assert len(published) == len(set(names))
  cells = len(paper.TABLES.get(table, ())) + len(
    measured.MEASURED.get(table, ())
  )
  assert sum(line.ours is not None for line in lines) <= cells
  assert join.markdown(table).count('\n| ') == len(lines) + 1


@pytest.mark.parametrize(
  'path', sorted(join.PUBLISHED.glob('*.csv')), ids=lambda p: p.stem
)
def test_published_files_are_tables(path):
  assert path.stem in join.TITLES
  for row in join.published(path.stem):
    assert row.unit and row.paper and row.location
    assert row.value is None or row.value > 0


def test_results_are_cells():
  """No results file without a cell, and none that ran another config."""
  for path in join.RESULTS.rglob('*.json'):
    name = str(path.relative_to(join.RESULTS).with_suffix(''))
    record = json.loads(path.read_text())
    config = configuration.to_json(paper.get_config(name))
    then = configuration.to_json(configuration.from_json(record['config']))
    assert configuration.differences(config, then) == [], name
    assert f'configs/paper.py:{name}' in record['command']
    assert not record['commit'].endswith('-dirty'), name


def test_pages_are_those_of_the_results():
  """./run.sh tables/paper --write renews them."""
  for path, text in script.written().items():
    assert path.read_text() == text, path


class TestJoin:
  @pytest.fixture
  def home(self, tmp_path, monkeypatch):
    monkeypatch.setattr(join, 'ROOT', tmp_path)
    monkeypatch.setattr(join, 'RESULTS', tmp_path / 'results' / 'paper')
    monkeypatch.setattr(join, 'PUBLISHED', tmp_path)
    monkeypatch.setattr(join, 'MEASURED', {})
    cell = paper.Cell('ours', 'theirs', 2.5, {})
    cells = {'a': cell, 'b': cell._replace(row='alone', published='')}
    monkeypatch.setattr(paper, 'TABLES', {'mnist_fixed': cells})
    monkeypatch.setattr(
      paper, 'CELLS', {f'mnist_fixed/{k}': v for k, v in cells.items()}
    )
    self.rows(tmp_path, [('theirs', 88.4, 'verified'), ('x', '', 'recalled')])
    return tmp_path

  def rows(self, home, rows):
    with (home / 'mnist_fixed.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, join.COLUMNS)
      writer.writeheader()
      for model, value, evidence in rows:
        row = dict.fromkeys(join.COLUMNS, 'p') | {'metric': 'nll'}
        own = {'model': model, 'value': value, 'evidence': evidence}
        writer.writerow(row | own | {'unit': 'nats'})

  def result(self, home, name, nats, error):
    path = home / 'results' / 'paper' / 'mnist_fixed' / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = {'nats': {'value': nats}, 'standard_error': {'value': error}}
    record = {'numbers': numbers, 'details': {'num_dims': 4}}
    record |= dict.fromkeys(
      ('seed', 'commit', 'date', 'wall_seconds', 'command'), 'r'
    )
    path.write_text(json.dumps(record))

  def test_blank_without_a_file(self, home):
    (one, x) = join.lines('mnist_fixed')
    assert one.published.value == 88.4 and one.ours is None
    assert x.published.shown('nats') == '' and not one.difference
    assert list(join.missing()) == ['mnist_fixed/a', 'mnist_fixed/b']

  def test_filled_by_a_file(self, home):
    self.result(home, 'a', 88.93, 0.2273)
    self.result(home, 'b', 90.0, 0.01234)
    one, _, alone = join.lines('mnist_fixed')
    assert (str(one.ours), one.difference) == ('88.93 ± 0.23', '+0.53')
    assert (alone.name, str(alone.ours)) == ('alone', '90.000 ± 0.012')
    assert not join.missing()
    rows = join.csv_rows(['mnist_fixed'])
    assert len(rows[0]) == len(rows[1]) and len(rows) == 4
    assert rows[1][:6] == ['mnist_fixed', 'ours', 88.4, 'nats', 88.93, 0.2273]

  def test_units(self, home):
    self.result(home, 'a', 4.0, 0.4)
    path = home / 'results' / 'paper' / 'mnist_fixed' / 'a.json'
    record = json.loads(path.read_text())
    bits = join.of_run(path, record, 'bits/dim')
    assert math.isclose(bits.value, 1 / math.log(2))
    assert join.of_run(path, record, 'nats/char').error == 0.1
    with pytest.raises(ValueError, match='a run has no furlongs, only nats'):
      join.of_run(path, record, 'furlongs')

  def test_refusals(self, home):
    self.rows(home, [('theirs', 1, 'verified'), ('theirs', 2, 'verified')])
    with pytest.raises(ValueError, match="two rows 'theirs'; tell them apart"):
      join.lines('mnist_fixed')
    self.rows(home, [('theirs', 1, 'rumour')])
    with pytest.raises(ValueError, match="evidence 'rumour'; expected veri"):
      join.lines('mnist_fixed')
    self.rows(home, [('other', 1, 'verified')])
    with pytest.raises(ValueError, match="repeats 'theirs', which third_party"):
      join.lines('mnist_fixed')
    (home / 'mnist_fixed.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='expected the columns model, dataset'):
      join.lines('mnist_fixed')

  def test_to_do_says_what_it_takes(self, home):
    text = script.to_do(list(join.missing()))
    assert '2 cells have no results file, 5 minutes:' in text
    assert '--config=configs/paper.py:mnist_fixed/a --result=results/' in text

  def test_run_takes_what_fits(self, home, monkeypatch, capsys):
    asked = []

    def train(words, **_):
      asked.append(words)
      self.result(home, 'a', 88.0, 0.2)
      return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(script.subprocess, 'run', train)
    with flagsaver.flagsaver(minutes=3.0, data_dir='d'):
      script.run()
    (words,) = asked
    assert words[1:] == [
      '-m',
      'experiments.train',
      '--config=configs/paper.py:mnist_fixed/a',
      '--result=results/paper/mnist_fixed/a.json',
      '--workdir=runs/paper/mnist_fixed/a',
      '--data_dir=d',
    ]
    assert (
      'mnist_fixed/b takes 2.5 minutes, 0.5 are left' in capsys.readouterr().out
    )

  def test_a_run_without_a_result_is_an_error(self, home, monkeypatch):
    stopped = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(script.subprocess, 'run', lambda *_, **__: stopped)
    error = 'fixed/a ended with exit code 0 and no result; the same'
    with (
      flagsaver.flagsaver(minutes=3.0),
      pytest.raises(RuntimeError, match=error),
    ):
      script.run()


class TestWholeNumbersElsewhere:
  """What one device wrote, computed on another one; here on the same."""

  def models(self):
    model = models.made(event=(5,), hidden=(7,))
    return [whole_numbers.Network('tiny', model)]

  def test_nothing_differs(self, tmp_path):
    whole_numbers.export(tmp_path, self.models())
    for _, carriers, counts in whole_numbers.check(tmp_path, self.models()):
      assert carriers
      assert all(different == 0 < of for different, of in counts.values())

  def test_what_differs_is_counted(self, tmp_path):
    whole_numbers.export(tmp_path, self.models())
    for path in tmp_path.glob('* integers.npz'):
      with np.load(path) as file:
        arrays = {name: a.copy() for name, a in file.items()}
      arrays['table'][0].reshape(-1)[:2] += 1
      arrays['samples'] = arrays['samples'][:3]
      np.savez(path, **arrays)
    for _, _, counts in whole_numbers.check(tmp_path, self.models()):
      assert counts['pass, highest'][0] == counts['pass, batch 1'][0] == 2
      assert counts['samples'] == (15, 15)
      assert counts['decoded'][0] == 0
