"""Exact samplers: for one key, one sample, whatever the sampler."""

from parallel_ar.samplers import forecasters
from parallel_ar.samplers.ancestral import ancestral
from parallel_ar.samplers.cached import cached
from parallel_ar.samplers.fixed_point import fixed_point
from parallel_ar.samplers.gauss_seidel import gauss_seidel
from parallel_ar.samplers.sweep import Sample, SampleInfo, Sampler
from parallel_ar.samplers.window import window

__all__ = [
  'Sample',
  'SampleInfo',
  'Sampler',
  'ancestral',
  'cached',
  'fixed_point',
  'forecasters',
  'gauss_seidel',
  'window',
]
