"""Kinds of public models in Linen, as their authors write them; the glue."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import parallel_ar as par

WIDTH, HEADS, LAYERS = 16, 2, 2


class TransformerDo(nn.Module):
  """As nanodo: learned positions, norms without bias, axes of its own mesh."""

  vocabulary: int
  length: int

  @nn.compact
  def __call__(self, tokens):
    """int[B, L] -> float[B, L, vocabulary]."""
    sharded = nn.with_partitioning(
      nn.initializers.normal(0.1), ('data', 'model')
    )
    embed = nn.Embed(self.vocabulary, WIDTH, embedding_init=sharded)
    places = nn.Embed(self.length, WIDTH)
    h = embed(tokens) + places(jnp.arange(tokens.shape[1])[None])
    for _ in range(LAYERS):
      mask = nn.make_causal_mask(tokens)
      attend = nn.MultiHeadDotProductAttention(HEADS, use_bias=False)
      h = h + attend(nn.LayerNorm(use_bias=False)(h), mask=mask)
      m = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm(use_bias=False)(h)))
      h = h + nn.Dense(WIDTH)(m)
    return embed.attend(nn.LayerNorm(use_bias=False)(h))


def nanodo(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """TransformerDo of nanodo."""
  head = par.heads.categorical(num_values)
  net = TransformerDo(num_values + 1, length)
  return par.from_linen(
    net, event=(length,), head=head, start=num_values, batched=True
  )


class TransformerLM(nn.Module):
  """As lm1b of Flax: shifts inside, token 0 pads, sinusoids, one Dense."""

  vocabulary: int

  @nn.compact
  def __call__(self, inputs):
    """int[B, L] -> float[B, L, vocabulary]."""
    shifted = jnp.pad(inputs, ((0, 0), (1, 0)))[:, :-1]
    padding = nn.make_attention_mask(inputs > 0, inputs > 0)
    mask = nn.combine_masks(padding, nn.make_causal_mask(inputs))
    at = jnp.arange(inputs.shape[1])[:, None]
    angle = at / 10.0 ** (jnp.arange(WIDTH // 2) / 4)[None]
    h = nn.Embed(self.vocabulary, WIDTH)(shifted)
    h = h + jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)[None]
    for _ in range(LAYERS):
      h = h + nn.MultiHeadDotProductAttention(HEADS, use_bias=False)(
        nn.LayerNorm()(h), mask=mask
      )
      h = h + nn.Dense(WIDTH)(nn.relu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(h))))
    return nn.Dense(self.vocabulary)(nn.LayerNorm()(h))


def lm1b(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """TransformerLM of Flax's lm1b; symbol v is its token v + 1."""
  head, net = par.heads.categorical(num_values), TransformerLM(num_values + 1)
  shown = lambda net, x, context: net(x + 1)[..., 1:]
  return par.from_linen(
    net, event=(length,), head=head, batched=True, call=shown
  )


class Output(NamedTuple):
  """What a model in the convention of Hugging Face gives."""

  logits: jax.Array
  hidden_states: jax.Array


class GPT2LMHead(nn.Module):
  """As FlaxGPT2LMHeadModel: dropout, approximate GELU, tied embeddings."""

  vocabulary: int
  length: int

  @nn.compact
  def __call__(self, input_ids, deterministic=True):
    """int[B, L] -> logits float[B, L, vocabulary] and what lies below."""
    wte = nn.Embed(self.vocabulary, WIDTH, name='wte')
    wpe = nn.Embed(self.length, WIDTH, name='wpe')
    h = wte(input_ids) + wpe(jnp.arange(input_ids.shape[1])[None])
    h = nn.Dropout(0.1)(h, deterministic=deterministic)
    mask = nn.make_causal_mask(input_ids)
    for _ in range(LAYERS):
      h = h + nn.MultiHeadDotProductAttention(HEADS)(
        nn.LayerNorm(1e-5)(h), mask=mask
      )
      m = nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm(1e-5)(h)), approximate=True)
      m = nn.Dropout(0.1)(nn.Dense(WIDTH)(m), deterministic=deterministic)
      h = h + m
    h = nn.LayerNorm(1e-5, name='ln_f')(h)
    return Output(wte.attend(h), h)


def gpt2(length: int = 12, num_values: int = 7) -> par.AutoregressiveModel:
  """FlaxGPT2LMHeadModel of Hugging Face, trained with its dropout."""
  head = par.heads.categorical(num_values)
  net = GPT2LMHead(num_values + 1, length)
  noisy = lambda net, ids, context: net(ids, deterministic=False)
  options = {'start': num_values, 'batched': True, 'train': noisy}
  return par.from_linen(net, event=(length,), head=head, **options)


MODELS = (nanodo, lm1b, gpt2)
