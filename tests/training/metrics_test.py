"""Records, their cutting back, and what a person sees."""

import io
import json
import math

import numpy as np
import pytest

from parallel_ar.training import metrics

VALUES = {'loss_nats': 2.5, 'bits_per_dim': 0.5}


def _writer(directory, start=0, **options):
  options = {'tensorboard': False, 'progress': False} | options
  return metrics.MetricWriter(directory, start=start, steps=100, **options)


class _Terminal(io.StringIO):
  def isatty(self):
    return True


class TestRecords:
  def test_are_on_disk_at_once(self, tmp_path):
    writer = _writer(tmp_path)
    writer.write('train', 10, VALUES)
    text = (tmp_path / 'metrics.jsonl').read_text()
    assert json.loads(text) == {'step': 10, 'kind': 'train', **VALUES}
    writer.close()

  def test_are_strict_json_whatever_the_number(self, tmp_path):
    writer = _writer(tmp_path)
    values = {'a': math.nan, 'b': math.inf, 'c': -math.inf, 'd': 1.0}
    writer.write('train', 1, values)
    writer.close()

    def refuse(token):
      raise AssertionError(token)

    line = (tmp_path / 'metrics.jsonl').read_text()
    record = json.loads(line, parse_constant=refuse)
    assert math.isnan(float(record['a']))
    assert float(record['b']) == math.inf
    assert float(record['c']) == -math.inf

  def test_a_rate_that_nobody_timed_is_left_out(self, tmp_path, caplog):
    writer = _writer(tmp_path, tensorboard=True)
    values = {'loss_nats': 2.0, 'steps_per_second': math.nan, 'x': math.inf}
    writer.write('train', 1, values)
    writer.close()
    (record,) = metrics.read(tmp_path / 'metrics.jsonl')
    assert record.keys() == {'step', 'kind', 'loss_nats', 'x'}
    assert not caplog.records, 'TensorBoard warned'

  def test_resume_cuts_back_to_the_step(self, tmp_path):
    writer = _writer(tmp_path)
    for step in (10, 20, 30):
      writer.write('train', step, VALUES)
      writer.write('valid', step, VALUES)
    writer.close()
    with (tmp_path / 'metrics.jsonl').open('a') as file:
      file.write('{"step": 40, "ki')
    writer = _writer(tmp_path, start=20)
    writer.write('train', 30, VALUES)
    writer.close()
    records = metrics.read(tmp_path / 'metrics.jsonl')
    assert [(r['step'], r['kind']) for r in records] == [
      (10, 'train'),
      (10, 'valid'),
      (20, 'train'),
      (20, 'valid'),
      (30, 'train'),
    ]

  def test_a_new_run_forgets_the_records_of_a_lost_one(self, tmp_path):
    writer = _writer(tmp_path)
    writer.write('train', 10, VALUES)
    writer.close()
    _writer(tmp_path).close()
    assert metrics.read(tmp_path / 'metrics.jsonl') == []

  def test_tensorboard_gets_the_same(self, tmp_path):
    for start in (0, 10):
      writer = _writer(tmp_path, start=start, tensorboard=True)
      writer.write('train', start + 10, VALUES)
      writer.close()
    files = list((tmp_path / 'tensorboard').iterdir())
    assert len(files) == 2
    assert all(b'train/loss_nats' in file.read_bytes() for file in files)


class TestRate:
  def test_leaves_pauses_out(self, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(metrics.time, 'monotonic', lambda: now[0])
    writer = _writer(tmp_path)
    writer.start_clock(1)
    now[0] += 2.0
    with writer.paused():
      now[0] += 50.0
    now[0] += 2.0
    assert writer.rate(9) == pytest.approx(2.0)
    assert math.isnan(writer.rate(9))
    writer.close()


class TestPerson:
  def test_plain_lines_without_a_terminal(self, tmp_path, capsys):
    writer = _writer(tmp_path, progress=None)
    writer.rate(50)
    writer.write('train', 50, VALUES)
    writer.say('hello')
    writer.close()
    shown = capsys.readouterr()
    assert 'step 50/100 train: loss 2.5, bits/dim 0.5' in shown.err
    assert ', ETA ' in shown.err
    assert 'hello' in shown.err
    assert shown.out == ''

  def test_bar_on_a_terminal(self, tmp_path, monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(metrics.sys, 'stderr', terminal)
    writer = _writer(tmp_path, start=40, progress=None)
    for step in range(41, 101):
      writer.advance(step, VALUES)
    writer.write('train', 100, VALUES)
    writer.write('valid', 100, VALUES)
    writer.close()
    shown = terminal.getvalue()
    assert '100/100' in shown
    assert '2.500 nats, 0.5000 bits/dim' in shown
    assert 'step 100/100 valid' in shown
    assert 'step 100/100 train' not in shown

  def test_silence(self, tmp_path, capsys):
    writer = _writer(tmp_path)
    writer.write('valid', 50, VALUES)
    writer.say('hello')
    writer.close()
    writer.close()
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
  'line', [b'[1, 2]', b'{"kind": "train"}', b'7', b'\xff\xfe', b'hello']
)
def test_a_foreign_line_is_named(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'Line 2 of .*metrics\.jsonl'):
    metrics.truncate(path, 5)
  path.write_bytes(b'{"step": 1}\n\x00\x00\xff{"st')
  metrics.truncate(path, 5)
  assert path.read_text() == '{"step": 1}\n'


def test_a_file_that_was_removed_begins_again(tmp_path, capsys):
  writer = metrics.MetricWriter(
    tmp_path, start=0, steps=2, tensorboard=False, progress=False
  )
  writer.write('train', 1, {'loss': 1.0})
  (tmp_path / 'metrics.jsonl').unlink()
  writer.write('train', 2, {'loss': 1.0})
  writer.close()
  assert [r['step'] for r in metrics.read(tmp_path / 'metrics.jsonl')] == [2]
  assert 'was removed' in capsys.readouterr().err


class TestBoards:
  def test_tensorboard_has_the_config_grids_and_histograms(self, tmp_path):
    """Read back from the event file, without TensorBoard."""
    from PIL import Image

    picture = tmp_path / 'grid.png'
    Image.new('RGB', (6, 4), (255, 0, 0)).save(picture)
    facts = {'config': '{"seed": 3}', 'model': 'made: 41 parameters'}
    writer = _writer(tmp_path, tensorboard=True, histograms=True, facts=facts)
    params = {'out': {'kernel': np.arange(6.0).reshape(2, 3)}}
    writer.show(7, picture, params)
    writer.close()
    (file,) = (tmp_path / 'tensorboard').iterdir()
    content = file.read_bytes()
    for told in (
      b'"seed": 3',
      b'41 parameters',
      b'samples',
      b'params/out/kern',
    ):
      assert told in content
    assert b'\x89PNG' in content

  def test_a_board_of_weights_and_biases(self, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    facts = {'config': '{"seed": 3}', 'model': 'made'}
    writer = _writer(tmp_path, wandb='tests', facts=facts)
    writer.write('train', 1, {'loss_nats': 2.5})
    writer.close()
    assert list(tmp_path.glob('wandb/offline-run-*/*.wandb'))

  def test_lines_fit_a_hundred_columns(self, tmp_path, capsys):
    writer = _writer(tmp_path, progress=None)
    names = dict.fromkeys(metrics._SHOWN, -123.456789)
    writer.write('train', 100_000, names)
    writer.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) <= 100
