"""Ancestral sampling: the definition of the sample of a key."""

from parallel_ar.model import AutoregressiveModel
from parallel_ar.samplers import sweep
from parallel_ar.samplers.sweep import Sample, Sampler
from parallel_ar.types import Array, Context, Params, PRNGKey


def ancestral(model: AutoregressiveModel) -> Sampler:
  """Draws rank after rank, one full pass for each: R passes.

    x_i = pick(conditionals(x)_i, noise_i)   for rank[i] = 0, 1, ..., R-1

  The returned sampler is called as sampler(params, keys, context=None, *,
  x=None, known=None), with `keys` key[B]. Positions where `known` is true keep
  their value from `x`; every other is drawn from its conditional given its
  predecessors. If the known positions are a prefix of the order this samples
  p(rest | known) exactly (completion). Otherwise it is in-painting: an unknown
  position is not informed by known ones of higher rank. Ranks that are known
  wholly take no pass, but for the last, which gives the likelihood.

  Args:
    model: the model.

  Returns:
    A sampler; its ValueErrors say what did not fit.
  """

  def draw(
    params: Params, keys: PRNGKey, context: Context, given: Array, known: Array
  ) -> Sample:
    return sweep.unguessed(model, params, keys, context, given, known, True)

  return sweep.sampler(model, draw)
