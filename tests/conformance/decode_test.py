"""Law 4, decode agreement: paths of a model's own, and wrong caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parallel_ar import samplers
from parallel_ar.testing import conformance, decode_laws, draft_laws, oracles
from tests import toys
from tests.conformance import cases


class TestDecode:
  """Law 4 with a decode path of the model's own, and without one."""

  @pytest.mark.parametrize('name', cases.SPREAD)
  def test_recomputed(self, name):
    case = cases.make_case(name)
    path = decode_laws.recompute_decode(case.model)
    print(decode_laws.decode_agreement(case, path))

  def test_every_partition(self):
    case = conformance.make_case(toys.sigmoid_net((5,)))
    partitions = list(oracles.compositions(5))
    assert len(partitions) == len(set(partitions)) == 16
    decode_laws.decode_agreement(case, partitions=partitions)

  def test_native_decode_is_token_exact_in_float64(self):
    with jax.enable_x64(True):
      case = conformance.make_case(toys.recurrent(dtype=jnp.float64))
      line = decode_laws.decode_agreement(case, case.model.decode)
    worst = float(line.split('agree to ')[1].split(',')[0])
    assert worst < 1e-12

  def test_a_wrong_cache_costs_passes_and_no_integer(self):
    """Whatever a cache computes, the sample is that of `ancestral`."""
    case = conformance.make_case(toys.recurrent())
    right = case.model.decode

    def extend(params, cache, k, previous):
      dist, cache = right.extend(params, cache, k, previous)
      return dist[..., ::-1], cache

    wrong = right._replace(extend=extend)
    args = case.params, case.keys
    known = np.arange(6) < np.arange(1, 4)[:, None]
    for given in ({}, {'x': case.x, 'known': known}):
      want = samplers.ancestral(case.model)(*args, **given).x
      got = samplers.cached(case.model, wrong)(*args, **given)
      np.testing.assert_array_equal(got.x, want)
      draft = samplers.cached(case.model, wrong, verify=False)(*args, **given)
      differ = np.asarray(draft.x != want).sum(1)
      np.testing.assert_array_equal(got.info.repaired, differ)
      assert (differ > 0).all() and (np.asarray(got.info.passes) > 1).any()
    with pytest.raises(conformance.LawBroken, match='the unverified draft'):
      draft_laws.cached(case, wrong)

  def test_a_cache_that_cannot_be_rewound_is_rejected(self):
    case = conformance.make_case(toys.recurrent(forgetful=True))
    with pytest.raises(conformance.LawBroken, match='rewind left values'):
      decode_laws.decode_agreement(case)
