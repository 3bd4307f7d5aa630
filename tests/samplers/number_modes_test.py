"""JAX's modes of numbers: float64, and an error at the first NaN.

The third, jax_numpy_rank_promotion='raise', is on in the whole suite.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.testing import case as cases
from tests import toys

MODES = {
  'float64': lambda: jax.enable_x64(True),
  'debug_nans': lambda: jax.debug_nans(True),
}


@pytest.mark.parametrize(
  'mode', ['float64', pytest.param('debug_nans', marks=pytest.mark.slow)]
)
def test_every_sampler_and_the_codec(mode):
  with MODES[mode]():
    case = cases.make_case(toys.everything())
    model, slots = case.model, case.model.decode._replace(groups=None)
    args = case.params, case.keys, case.context
    known = {
      'x': case.x,
      'known': np.random.default_rng(0).random((3, 2, 3)) < 0.5,
    }
    want = par.ancestral(model)(*args)
    assert want.x.dtype == jnp.int32
    filled = par.ancestral(model)(*args, **known).x
    draw = {
      'fixed_point': par.fixed_point(model),
      'ngram': par.fixed_point(model, par.forecasters.ngram(model)),
      'groups': par.cached(model),
      'rows': par.cached(model, slots),
      'slots': par.cached(model, slots._replace(blocks=None)),
      'gauss_seidel': par.gauss_seidel(model),
      'window': par.window(model, sizes=(2, 4), lanes=2),
      'recomputed': par.window(
        model, par.recompute_decode(model), par.forecasters.last(model)
      ),
    }
    for name, sampler in draw.items():
      got = sampler(*args, **known)
      np.testing.assert_array_equal(got.x, filled, name)
    pair = (case.params, case.params), case.keys, case.context
    got = par.speculative(model, model)(*pair)
    np.testing.assert_array_equal(got.x, want.x)
    assert np.isfinite(par.rejection(model, model)(*pair).log_prob).all()
    for method in ('cached', 'lanes', 'stream'):
      codec = par.codec(model, method=method)
      data = codec.encode(case.params, want.x, case.context)
      back = codec.decode(case.params, data, case.context)
      np.testing.assert_array_equal(back.x, want.x)
    nats = par.log_prob(model, case.params, want.x, case.context)
    np.testing.assert_allclose(nats, want.log_prob, rtol=1e-5)
