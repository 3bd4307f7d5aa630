"""`check_decode` names what is wrong with a path, and finds nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.testing.case import LawBroken
from tests import toys

NET = toys.sigmoid_net((5,), num_values=3)
ROWS = toys.everything((3, 2))  # a random order, with rows and groups


def broken(model, part, change):
  """The model's path with one of its functions changed."""
  path = model.decode or par.recompute_decode(model)
  if part.startswith('blocks.'):
    name = part.removeprefix('blocks.')
    old = getattr(path.blocks, name)
    changed = path.blocks._replace(**{name: change(old)})
    return path._replace(blocks=changed)
  return path._replace(**{part: change(getattr(path, part))})


def late(extend):
  """Reads the value before the one that it is given."""
  return lambda p, cache, k, previous: extend(p, cache, k, previous * 0)


def alone(extend):
  """Right for single slots; the last slot of a block is that before it."""

  def wrong(params, cache, k, previous):
    dist, cache = extend(params, cache, k, previous)
    return dist.at[-1].set(dist[-2]) if len(dist) > 1 else dist, cache

  return wrong


def first_row(begin):
  """Conditions every row on the first, and not on the row before."""
  return lambda p, cache, b, last: begin(p, cache, jnp.minimum(b, 1), last)


def peeks(conditionals):
  """A slot of a row reads the slots after it."""

  def wrong(params, given, row):
    return conditionals(params, given, row) + row.sum()

  return wrong


def remembers(extend):
  """Slot 0 of a row reads what is no value of the row."""

  def wrong(params, given, inner, j, previous):
    dist, inner = extend(params, given, inner, j, previous)
    return dist + jnp.where(j == 0, previous, 0), inner

  return wrong


def own_rank(groups):
  """A group reads itself."""

  def extend(params, cache, level, x):
    dist, cache = groups.extend(params, cache, level, x)
    return dist + x.sum(), cache

  return groups._replace(extend=extend)


def forgets(resize):
  """A cache that is resized is empty."""
  del resize
  return lambda cache, n: jax.tree.map(jnp.zeros_like, cache)


@pytest.mark.parametrize(
  ('model', 'part', 'change', 'told'),
  [
    (NET, 'extend', late, r'slot [1-4] of the block of slots .* is \d'),
    (NET, 'extend', alone, r'blocks \(1, 4\).*slot 4 of the block of slots 1'),
    (ROWS, 'resize', forgets, 'resized at slot'),
    (ROWS, 'blocks.begin', first_row, 'blocks.* of block 2'),
    (ROWS, 'blocks.conditionals', peeks, 'blocks.conditionals of block 0'),
    (ROWS, 'blocks.extend', remembers, 'blocks.extend at 0 of block 0'),
    (ROWS, 'groups', own_rank, 'groups at rank 0'),
  ],
)
def test_a_wrong_path_is_named(model, part, change, told):
  path = broken(model, part, change)
  with pytest.raises(LawBroken, match=rf'(?s){told}'):
    par.check_decode(model, path)


def test_a_rewind_that_leaves_a_draft_behind():
  with pytest.raises(LawBroken, match='rewind left values of a draft'):
    par.check_decode(toys.recurrent(forgetful=True))


def test_right_paths_pass():
  assert 'resize, blocks, groups' in par.check_decode(ROWS)
  params = NET.init(jax.random.key(3))
  x = np.array([[0, 2, 1, 1, 0], [2, 2, 0, 1, 2]])
  line = par.check_decode(
    NET, par.recompute_decode(NET), params=params, examples=x
  )
  assert line.startswith('2 partitions agree to ')


def test_by_default_it_is_the_derived_path():
  one = par.check_decode(NET, key=jax.random.key(5))
  path = par.derive_decode(NET)
  assert one == par.check_decode(NET, path, key=jax.random.key(5))


def test_a_tap_that_reaches_over_whole_rows():
  """Row 1 makes nothing of it beforehand: all that it reads is padding."""
  net = par.models.wavenet(
    event=(4, 2), num_values=3, features=3, skip_features=3, layers=3
  )
  assert par.derive_decode(net).blocks is not None
  par.check_decode(net)


def test_what_does_not_fit_is_refused_at_the_door():
  for bad in (
    {'decode': par.recompute_decode(toys.sigmoid_net((4,)))},
    {'examples': np.zeros((1, 4), int)},
    {'examples': np.full((1, 5), 3)},
    {'context': np.zeros((1, 2))},
    {'key': jax.random.split(jax.random.key(0), 2)},
    {'partitions': [[2, 2]]},
    {'partitions': [[5, 0]]},
  ):
    with pytest.raises(ValueError):
      par.check_decode(NET, **bad)


def test_a_path_may_be_derived_while_a_program_is_traced():
  """It is kept on the record, and must hold nothing of that trace."""
  net = toys.sigmoid_net((4,), num_values=3)
  params, keys = (
    net.init(jax.random.key(0)),
    jax.random.split(jax.random.key(1)),
  )
  inside = jax.jit(lambda p, k: par.cached(net)(p, k).x)(params, keys)
  np.testing.assert_array_equal(inside, par.cached(net)(params, keys).x)
  assert par.check_decode(net, params=params)
