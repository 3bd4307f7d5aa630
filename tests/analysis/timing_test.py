"""Programs are timed in turn and compared by round; no real work is timed."""

import os

import numpy as np
import pytest

from parallel_ar.analysis import timing


class FakeMachine:
  """A clock that moves only when a program of known cost runs."""

  def __init__(self, others=0.0):
    self.now, self.foreign, self.others, self.ran = 0.0, 0.0, others, []

  def program(self, name, *costs):
    """A program that takes costs[k] seconds in its k-th run, then the last."""
    left = list(costs)

    def run():
      cost = left.pop(0) if len(left) > 1 else left[0]
      self.ran.append(name)
      self.now += cost
      self.foreign += cost * self.others

    return run

  def in_turn(self, programs, **options):
    return timing.in_turn(
      programs,
      clock=lambda: self.now,
      foreign_clock=lambda: self.foreign,
      **options,
    )


def test_order_alternates_and_warm_up_is_not_timed():
  machine = FakeMachine()
  programs = {
    'a': machine.program('a', 50.0, 1.0),
    'b': machine.program('b', 70.0, 2.0),
  }
  taken = machine.in_turn(programs, rounds=3)
  assert machine.ran == ['a', 'b'] + ['a', 'b'] + ['b', 'a'] + ['a', 'b']
  np.testing.assert_array_equal(taken.seconds['a'], [1, 1, 1])
  np.testing.assert_array_equal(taken.seconds['b'], [2, 2, 2])
  assert timing.ratio(taken, 'a', 'b') == timing.Summary(0.5, 0.5, 0.5, 3)


def test_a_time_is_the_mean_of_the_repetitions():
  machine = FakeMachine()
  programs = {'a': machine.program('a', 1.0, 3.0, 8.0)}
  taken = machine.in_turn(programs, rounds=1, warmup=0, repeats=3)
  np.testing.assert_array_equal(taken.seconds['a'], [4.0])


def test_ratio_is_taken_within_rounds():
  # The machine slows down tenfold, the ratio of the programs stays.
  machine = FakeMachine()
  programs = {
    'a': machine.program('a', 1.0, 10.0, 100.0),
    'b': machine.program('b', 4.0, 40.0, 400.0),
  }
  taken = machine.in_turn(programs, rounds=3, warmup=0)
  found = timing.ratio(taken, 'b', 'a')
  assert found == timing.Summary(4.0, 4.0, 4.0, 3)
  assert timing.summarize(taken.seconds['a']).high > 10


def test_linear_drift_cancels_over_two_rounds():
  machine = FakeMachine()
  # Each run takes one second more than the one before it, whoever runs.
  start = iter(range(1, 100))

  def run():
    machine.now += next(start)

  taken = machine.in_turn({'a': run, 'b': run}, rounds=2, warmup=0)
  assert taken.seconds['a'].sum() == taken.seconds['b'].sum()


def test_summary():
  found = timing.summarize([[4.0, 1.0], [2.0, 3.0]])
  assert found == timing.Summary(2.5, 1.75, 3.25, 4)
  assert found.text(1e3, 0) == '2500 [1750, 3250]'


def test_foreign_load_selects_quiet_rounds():
  machine = FakeMachine(others=0.1)
  program = machine.program('a', 1.0)

  def run():
    machine.others = 0.9 if len(machine.ran) == 1 else 0.1
    program()

  taken = machine.in_turn({'a': run}, rounds=3, warmup=0)
  np.testing.assert_allclose(taken.foreign['a'], [0.1, 0.9, 0.1])
  calm = timing.quiet(taken)
  assert calm.seconds['a'].shape == (2,)
  np.testing.assert_allclose(calm.foreign['a'], 0.1)


def test_a_round_is_quiet_only_if_it_is_for_every_program():
  ones = np.ones(3)
  taken = timing.Rounds(
    {'a': ones, 'b': 2 * ones},
    {'a': np.array([0.0, 0.5, 0.0]), 'b': np.array([0.0, 0.0, 0.5])},
  )
  assert len(timing.quiet(taken).seconds['b']) == 1
  assert len(timing.quiet(taken, cores=0.6).seconds['b']) == 3


def test_unknown_foreign_load_counts_as_quiet():
  machine = FakeMachine()
  taken = timing.in_turn(
    {'a': machine.program('a', 1.0)},
    rounds=2,
    clock=lambda: machine.now,
    foreign_clock=lambda: None,
  )
  assert np.isnan(taken.foreign['a']).all()
  assert len(timing.quiet(taken).seconds['a']) == 2


def test_foreign_seconds_reads_the_kernel(tmp_path):
  tick = os.sysconf('SC_CLK_TCK')
  ticks = [100, 20, 30, 5000, 7, 1, 2, 900, 0, 0]  # idle 5000, waiting 7
  numbers = ' '.join(str(t * tick) for t in ticks)
  (tmp_path / 'stat').write_text(f'cpu  {numbers}\ncpu0 {numbers}\n')
  fields = ['S', *['0'] * 10, str(11 * tick), str(4 * tick), '0']
  (tmp_path / '7').mkdir()
  line = f'7 (a name) with) brackets) {" ".join(fields)}'
  (tmp_path / '7' / 'stat').write_text(line)
  assert timing.foreign_seconds([7], tmp_path) == 153 - 15
  assert timing.foreign_seconds([], tmp_path) == 153
  assert timing.foreign_seconds([8], tmp_path) is None
  assert timing.foreign_seconds([7], tmp_path / 'nowhere') is None


def test_own_work_is_not_foreign():
  before = timing.foreign_seconds()
  if before is None:
    pytest.skip('The kernel does not tell of processes here.')
  assert before >= 0


@pytest.mark.parametrize(
  'options', [{'rounds': 0}, {'rounds': 1, 'repeats': 0}, {'programs': {}}]
)
def test_nothing_to_time_is_refused(options):
  options = {'programs': {'a': lambda: None}, 'rounds': 1} | options
  with pytest.raises(ValueError, match='at least one program'):
    timing.in_turn(**options)
