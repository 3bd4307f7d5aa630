"""What parallelism costs: the scripts run, tiny."""

import json
import pathlib

import numpy as np
import pytest

from experiments.limits import drafts, newton, ways
from parallel_ar.analysis import timing
from tests import options_test

ROOT = pathlib.Path(__file__).parents[1]


def run(script, *flags, tmp_path):
  """Runs a script; its printed text and its numbers."""
  flags = [*flags, f'--png={tmp_path}/p.png', f'--out={tmp_path}/n.json']
  said = options_test.run(script, flags)
  assert (tmp_path / 'p.png').read_bytes().startswith(b'\x89PNG')
  numbers = json.loads((tmp_path / 'n.json').read_text())['numbers']
  return said, {name: n['value'] for name, n in numbers.items()}


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_memory(tmp_path):
  flags = '--networks=transformer', '--lengths=63', '--batch=2', '--rounds=1'
  tiny = '--features=8', '--layers=1'
  _, got = run('memory', *flags, *tiny, tmp_path=tmp_path)
  at = '63 slots, gradient'
  assert got[f'transformer, {at}, one square: bytes of the first'] == 1
  least = got[f'transformer, {at}, least of all: bytes of the first']
  assert 0 < least < 1
  assert got['transformer, 63 slots, pass, no scores kept: ms'] > 0


def test_ways_of_a_config_reach_blocks_and_parts():
  section = {'name': 'gated_pixelcnn', 'event': (4, 4, 1), 'features': 4}
  named = ways.ways(section, 2, 'gradient')
  assert named['by blocks'].blocks and named['by examples'].parts == 2
  assert named['least of all'].fields['remat'] == 'full'
  assert ways.resize(section, 32)['event'] == (4, 8, 1)


def test_the_front_holds_what_nothing_beats():
  def point(seconds, size):
    summary = timing.Summary(seconds, seconds, seconds, 1)
    return ways.Point(summary, summary, size)

  points = {'a': point(1, 9), 'b': point(2, 5), 'c': point(3, 7)}
  assert ways.front(points) == ['a', 'b']


@pytest.mark.slow  # of the house below is the same script
def test_efficiency_of_a_config(tmp_path):
  flags = (
    '--config=configs/markov_transformer.py',
    '--config.model.features=8',
    '--config.train.batch_size=4',
    '--cases=windows,sharding,batches,dispatch,bandwidth',
    *('--steps=2', '--batch=2', '--devices=2', '--batches=1,3'),
    *('--samples=1,2', '--rounds=1'),
  )
  text, got = run('efficiency', *flags, tmp_path=tmp_path)
  assert '**sharding too far' in text
  drawn = {k: v for k, v in got.items() if k.endswith(': different')}
  assert len(drawn) == 8 and not any(drawn.values())
  assert got['windows, window 1: rounds'] == 16
  assert got['windows, window 8: rounds'] <= 16
  assert got['sharding, data 2: collectives'] >= 1
  assert got['sharding, one device: sent'] == 0
  assert got['dispatch, flipped by rounding'] == 0


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_efficiency_of_the_house(tmp_path):
  flags = '--cases=newton,drafts', '--radii=0.5,2', '--drafts=1', '--steps=2'
  tiny = '--features=8', '--length=8', '--rounds=1'
  _, got = run('efficiency', *flags, *tiny, tmp_path=tmp_path)
  few = got['newton, DEER, radius 0.5: steps']
  assert few < got['newton, DEER, radius 2: steps'] <= 64
  assert got['newton, radius 0.5: exponent'] < got['newton, radius 2: exponent']
  assert got['newton, DEER, radius 0.5: deviation'] < 1e-5
  assert got['drafts, draft of 1: g by the formula'] >= 0


def test_the_formula_chooses_the_length_of_a_draft():
  assert drafts.best_window(0.0, 0.1) == (0, 1.0)
  good, gain = drafts.best_window(0.9, 0.01)
  poor, less = drafts.best_window(0.6, 0.1)
  assert good > poor > 0 and gain > less > 1
  assert drafts.best_window(0.6, 0.1, block=1.0) == (0, 1.0)


def test_the_exponent_of_a_contraction_is_its_logarithm():
  kernel = 0.5 * np.eye(3, dtype=np.float32)
  got = newton.exponent(kernel, np.zeros((40, 3), np.float32))
  assert got == pytest.approx(np.log(0.5), rel=1e-5)


@pytest.mark.slow  # a question, whose parts have tests of their own
def test_mesh_sweep(tmp_path):
  flags = (
    '--config=configs/digits_made.py',
    '--config.model.hidden=(16,)',
    '--config.train.batch_size=4',
    *('--devices=2', '--rounds=1'),
  )
  text, got = run('mesh_sweep', *flags, tmp_path=tmp_path)
  assert text.count('\n| data 2 ') == text.count('\n| fsdp 2 ') == 1
  assert got['data 2: collectives'] >= 1
  assert got['data 2: memory planned'] == pytest.approx(
    got['data 2: memory'], rel=0.2
  )
  assert got['data 2: sent planned'] == pytest.approx(
    got['data 2: sent'], rel=0.2
  )


def test_derived_cache(tmp_path):
  flags = (
    '--parts=own,derivation',
    '--only=two con,Transformer',
    *('--length=8', '--side=3', '--samples=3', '--rounds=1', '--layers=1'),
  )
  text, got = run('derived_cache', *flags, tmp_path=tmp_path)
  assert text.count(' | derived | ') == 2
  drawn = {k: v for k, v in got.items() if k.endswith(': different')}
  assert len(drawn) == 3 + 2 and not any(drawn.values())
  own = 'own, two convolutions, batch 1'
  assert got[f'{own}, cached and ancestral: integers'] == 3 * 9
  assert got[f'{own}, ancestral / derived'] > 0
  assert got['derivation, Transformer 16, batch 1: derivation'] > 0


@pytest.mark.slow  # of own functions above is the same script
def test_derived_cache_beside_one_by_hand(tmp_path):
  flags = '--parts=families', '--only=ardm', '--side=3', '--rounds=1'
  _, got = run('derived_cache', *flags, tmp_path=tmp_path)
  drawn = {k: v for k, v in got.items() if k.endswith(': different')}
  assert drawn and not any(drawn.values())
  assert got['families, ardm, batch 1, by hand / derived'] > 0
