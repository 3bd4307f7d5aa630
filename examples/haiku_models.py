"""Kinds of public models in Haiku, as their authors write them; the glue."""

import haiku as hk
import jax
import jax.numpy as jnp

import parallel_ar as par

WIDTH, LAYERS = 16, 2


def _transformer(tokens, vocabulary):
  """As Haiku's example: token 0 pads, learned positions, GELU.

  Args:
    tokens: int[B, L].
    vocabulary: number of tokens.

  Returns:
    float[B, L, vocabulary].
  """
  length, scale = tokens.shape[1], hk.initializers.VarianceScaling(1.0)
  places = hk.get_parameter('places', [length, WIDTH], init=scale)
  h = hk.Embed(vocabulary, WIDTH)(tokens) + places[None]
  causal = jnp.tril(jnp.ones((length, length), bool))
  mask = (tokens > 0)[:, None, None] & causal[None, None]
  norm = lambda h: hk.LayerNorm(-1, create_scale=True, create_offset=True)(h)
  for _ in range(LAYERS):
    a = norm(h)
    h = h + hk.MultiHeadAttention(2, WIDTH // 2, w_init=scale)(a, a, a, mask)
    m = hk.nets.MLP([4 * WIDTH, WIDTH], activation=jax.nn.gelu)
    h = h + m(norm(h))
  return hk.Linear(vocabulary)(norm(h))


def transformer(
  length: int = 12, num_values: int = 7
) -> par.AutoregressiveModel:
  """The language model of Haiku's examples."""
  head = par.heads.categorical(num_values)
  net = lambda tokens: _transformer(tokens, num_values + 1)
  return par.from_haiku(net, event=(length,), head=head, start=num_values)


def _lstm(tokens, vocabulary):
  """int[B, L] -> float[B, L, vocabulary], by a scan over time."""
  core = hk.DeepRNN([hk.LSTM(WIDTH), jax.nn.relu, hk.LSTM(WIDTH)])
  fed = jax.nn.one_hot(tokens.T, vocabulary)
  out, _ = hk.dynamic_unroll(core, fed, core.initial_state(tokens.shape[0]))
  return hk.Linear(vocabulary)(out).swapaxes(0, 1)


def lstm(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """The character LSTM of Haiku's examples."""
  head = par.heads.categorical(num_values)
  net = lambda tokens: _lstm(tokens, num_values + 1)
  return par.from_haiku(net, event=(length,), head=head, start=num_values)


MODELS = (transformer, lstm)
