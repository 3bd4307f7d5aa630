"""Public kinds of models: brought in by a few lines, through every script."""

import pytest
from absl.testing import flagsaver

pytest.importorskip('haiku')
pytest.importorskip('equinox')

from examples import (
  equinox_models,
  haiku_models,
  linen_models,
  nnx_models,
  plain,
  scans,
)
from experiments import inside
from parallel_ar.analysis import static

FRAMEWORKS = (linen_models, nnx_models, haiku_models, equinox_models)
MAKERS = [make for module in FRAMEWORKS for make in module.MODELS]


@pytest.fixture(scope='module')
def table():
  with inside.imported('tables/public_models', ()) as script:
    yield script


def test_the_table_has_every_kind_in_a_few_lines(table):
  by_name = {
    f'{module.__name__.partition(".")[2]}:{make.__name__}': make
    for module in (*FRAMEWORKS, plain, scans)
    for make in module.MODELS
  }
  lines = {kind: table.glue(by_name[kind]) for kind in table.KINDS}
  assert len(lines) == 17 and max(lines.values()) <= 6, lines
  assert {f'{m.__module__.partition(".")[2]}:{m.__name__}' for m in MAKERS} <= {
    *table.KINDS
  }


@pytest.mark.parametrize('make', MAKERS, ids=lambda make: make.__name__)
def test_the_shift_is_right_and_forgotten_it_is_found(make, table):
  model = make(3, 3) if make.__name__ == 'pixelcnn' else make(5)
  found = static.check(model)
  assert not found.leaks and (found.proved or make.__name__ == 'deer_gru')
  planted = static.check(table.shift_forgotten(model))
  firm = {*planted.leaks, *planted.undecided}
  row = model.rank.shape[min(1, model.rank.ndim - 1)]  # its first reads no own
  own = [(i, i) for i in range(model.rank.size) if i % row]
  assert len(firm & set(own)) == len(own), planted.describe()


def through(table, kinds, tmp_path, steps=2, length=5):
  with flagsaver.flagsaver(
    (table._STEPS, steps), (table._LENGTH, length), (table._COUNT, 3)
  ):
    for kind in kinds:
      row = table.through(kind, tmp_path / kind.replace(':', '_'))
      assert row.differ == 0 and row.leaks == 0 and row.passes <= row.size + 1
      assert row.told == row.planted > row.size / 2
      assert row.above is not None or row.refused
      print(table.line(kind, row))


def test_a_kind_goes_through_every_script(table, tmp_path):
  through(table, ['scans:mamba'], tmp_path)


@pytest.mark.slow
def test_all_kinds_go_through_every_script(table, tmp_path):
  through(table, table.KINDS, tmp_path)


def test_the_page_has_the_table_of_its_result(table):
  """./run.sh tables/public_models --write renews it."""
  assert table.PAGE.read_text() == table.written()
