"""Multiscale groups: each is evaluated on the coarsest grid that holds it."""

import jax
import numpy as np
import pytest

from parallel_ar import models, order, samplers
from parallel_ar.models.multiscale import grids
from parallel_ar.testing import case as cases


def test_grids_are_those_of_the_octaves():
  rank = order.multiscale((8, 8, 1), 3)
  assert grids(rank) == (8, 4, 4, 4, 2, 2, 2, 1, 1, 1)
  assert grids(order.raster((2, 2, 1))) == (2, 1, 1, 1)
  assert grids(order.blocks((1, 3, 1), 2)) == (1, 1)


def test_a_group_costs_its_grid_only():
  """Six octaves cost as much as 4 / 3 of one evaluation of the image."""

  def flops(rank):
    model = models.multiscale(
      event=(32, 32, 1), rank=rank, layers=2, features=8
    )
    x = jax.ShapeDtypeStruct((32, 32, 1), np.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    program = jax.jit(model.conditionals).lower(params, x, None).compile()
    return program.cost_analysis()['flops']

  one = flops(np.zeros((32, 32, 1), np.int32))
  assert flops(order.multiscale((32, 32), 1)[..., None]) < 1.5 * one


@pytest.mark.parametrize('groups', [1, 2, 3])
def test_a_sample_takes_a_pass_a_rank(groups):
  event = (7, 5, 1)
  model = models.multiscale(
    event=event, rank=order.multiscale(event, groups), layers=1, features=4
  )
  case = cases.make_case(model)
  sample = samplers.fixed_point(model)(case.params, case.keys)
  assert np.asarray(sample.info.passes).max() <= 1 + 3 * groups == model.depth
