"""Decode paths of functions that read a window: law 4 on each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import parallel_ar as par
from parallel_ar.testing import case as cases
from parallel_ar.testing import decode_laws
from tests.framework_caches_test import own

VALUES = 3
HEAD = par.heads.categorical(VALUES)


def convolution(length=12, taps=3, layers=2, places=False):
  """Causal convolutions: reads layers * (taps - 1) + 1 symbols, any length."""

  def init(key):
    k, e, p = jax.random.split(key, 3)
    return {
      'k': jax.random.normal(k, (layers, taps, VALUES, VALUES)),
      'e': jax.random.normal(e, (VALUES, VALUES)),
      'p': jax.random.normal(p, (64, VALUES)),
    }

  def conditionals(params, x, context):
    h = jnp.pad(params['e'][x], ((1, 0), (0, 0)))[:-1]
    if places:
      h = h + params['p'][: len(x)]
    for kernel in params['k']:
      h = jnp.tanh(
        jax.lax.conv_general_dilated(
          h[None],
          kernel,
          (1,),
          [(taps - 1, 0)],
          dimension_numbers=('NWC', 'WIO', 'NWC'),
        )[0]
      )
    return h

  rank = par.order.raster(length)
  return par.from_function(
    conditionals, event=(length,), rank=rank, head=HEAD, init=init
  )


class TestWindows:
  @pytest.mark.parametrize('reads', [5, 6, 12, 30])
  def test_law_4_and_the_samplers(self, reads):
    model = convolution()
    path = par.windowed_decode(model, reads)
    case = cases.make_case(model)
    parts = [1] * 12, [5, 1, 6], [12]
    decode_laws.decode_agreement(case, path, parts)
    slow = par.ancestral(model)(case.params, case.keys)
    fast = par.cached(model, path)(case.params, case.keys)
    np.testing.assert_array_equal(fast.x, slow.x)

  def test_a_step_costs_a_window(self):
    model = convolution(48)
    path = par.windowed_decode(model, 5)
    params = model.init(jax.random.key(0))
    step = jax.make_jaxpr(path.extend)(
      params, path.init(params, None), 7, jnp.zeros(1, jnp.int32)
    )
    widths = {
      v.aval.shape[1]
      for e in step.jaxpr.eqns
      if e.primitive.name == 'conv_general_dilated'
      for v in e.outvars
    }
    assert widths == {6}

  def test_a_function_for_the_window(self):
    """An image in the order of a line, by a function of one's own."""
    line = convolution(12)
    model = par.from_function(
      lambda params, x, context: line.conditionals(
        params, x.reshape(-1), context
      ).reshape(3, 4, VALUES),
      event=(3, 4),
      rank=par.order.raster((3, 4)),
      head=HEAD,
      init=line.init,
    )
    with pytest.raises(ValueError, match=r'shape \(3, 4\). Give fn='):
      par.windowed_decode(model, 5)
    path = par.windowed_decode(model, 5, line.conditionals)
    decode_laws.decode_agreement(cases.make_case(model), path)

  def test_too_small_a_window_is_refused_by_proof(self):
    with pytest.raises(ValueError, match=r'a symbol 5 slots.*Use reads=5'):
      par.windowed_decode(convolution(), 4)

  def test_and_by_comparison_where_nothing_is_proved(self, monkeypatch):
    monkeypatch.setattr('parallel_ar.adapters.window._PROVED', 0)
    with pytest.raises(ValueError, match='slot 5 are .*read further back'):
      par.windowed_decode(convolution(), 4)

  def test_a_function_of_the_place_is_refused(self):
    model = convolution(places=True)
    with pytest.raises(ValueError, match='number of the position'):
      par.windowed_decode(model, 5)

  def test_a_function_of_one_length_is_refused(self):
    model, _ = own()
    with pytest.raises(ValueError, match=r'reads further back than reads=2'):
      par.windowed_decode(model, 2)

  @pytest.mark.parametrize('reads', [0, -1])
  def test_no_window(self, reads):
    with pytest.raises(ValueError, match='at least 1 symbol'):
      par.windowed_decode(convolution(), reads)
