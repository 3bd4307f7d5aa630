"""Tables of places: boxes that cover, and reads and writes of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar.decode import cuts
from parallel_ar.decode.facts import groups, reshaped, thin


@pytest.mark.parametrize('seed', range(4))
def test_a_covering_covers_at_every_step(seed):
  rng = np.random.default_rng(seed)
  present = rng.random((9, 13)) < 0.15
  present[3] = False  # a step at which nothing is due
  index = cuts.Indices(9).covering(present)
  table = np.arange(13)[None] if index is None else index.table
  for k, row in enumerate(present):
    assert set(np.flatnonzero(row)) <= set(table[k % len(table)])


@pytest.mark.parametrize('seed', range(4))
def test_a_box_holds_its_entries_in_order(seed):
  rng = np.random.default_rng(seed)
  dims, indices = (3, 5, 4), cuts.Indices(6)
  flat = rng.integers(np.prod(dims), size=(6, 3))
  axes, where = indices.project(flat, dims)
  a = rng.normal(size=dims).astype(np.float32)
  for k in range(6):
    box = np.asarray(cuts.read(jnp.asarray(a), tuple(axes), k)).reshape(-1)
    got = box if where is None else box[where[k]]
    np.testing.assert_array_equal(got, a.reshape(-1)[flat[k]])


def test_what_lies_over_the_border_is_zero():
  indices = cuts.Indices(2)
  index = indices.of(np.array([[-2, -1, 0], [2, 3, 4]]), 4)
  a = jnp.arange(1.0, 5.0)
  assert cuts.read(a, (index,), 0).tolist() == [0, 0, 1]
  assert cuts.read(a, (index,), 1).tolist() == [3, 4, 0]


def test_equal_tables_are_one_object_and_the_whole_axis_is_none():
  indices = cuts.Indices(3)
  table = np.array([[0, 1], [1, 2], [2, 3]])
  assert indices.of(table, 4) is indices.of(table.copy(), 9)
  assert indices.of(np.arange(4)[None], 4) is None


@pytest.mark.parametrize('scattered', [False, True])
def test_a_batch_at_one_place_reads_and_writes_slices(scattered):
  """As for one example; JAX would have made gathers and scatters of them."""
  table = np.array([[0, 1], [1, 2], [3, 4]])
  index = cuts.Indices(3).of(table + 2 * scattered * np.array([0, 1]), 8)
  a = jnp.arange(48.0).reshape(3, 8, 2)

  def step(a, k):
    part = cuts.read(a, (index, None), k)
    return cuts.write(a, -part, (index, None), k, [(0, 0)] * 2)

  for k in range(3):
    together = jax.vmap(step, (0, None))(a, k)
    apart = jnp.stack([step(one, k) for one in a])
    assert (together == apart).all()
  each = jnp.array([2, 0, 1])  # every example at a place of its own
  apart = jnp.stack([step(one, k) for one, k in zip(a, each, strict=True)])
  assert (jax.vmap(step)(a, each) == apart).all()
  text = str(jax.make_jaxpr(jax.vmap(step, (0, None)))(a, 1))
  assert scattered or ('gather' not in text and 'scatter' not in text)


@pytest.mark.parametrize(
  ('before', 'after'),
  [
    ((2, 3, 4), (6, 4)),
    ((6, 4), (2, 3, 2, 2)),
    ((1, 5), (5,)),
    ((4,), (1, 4, 1)),
  ],
)
def test_facts_are_reshaped_as_their_arrays_are(before, after):
  a = np.random.default_rng(0).integers(9, size=before)
  np.testing.assert_array_equal(reshaped(a, before, after), a.reshape(after))
  same = np.zeros([1] * len(before))
  assert reshaped(same, before, after).shape == (1,) * len(after)
  sizes = [
    (np.prod([before[n] for n in l]), np.prod([after[n] for n in r]))
    for l, r in groups(before, after)
  ]
  assert all(m == n for m, n in sizes)


def test_a_fact_that_is_the_same_along_an_axis_is_kept_once():
  assert thin(np.ones((3, 4))).shape == (1, 1)
  assert thin(np.arange(3)[:, None] * np.ones((3, 4))).shape == (3, 1)
