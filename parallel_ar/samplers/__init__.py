"""Exact samplers: for one key, one sample, whatever the sampler.

Only `rejection` keeps the law and not the integers of a key.
"""

from parallel_ar.samplers import forecasters
from parallel_ar.samplers.ancestral import ancestral
from parallel_ar.samplers.cached import cached
from parallel_ar.samplers.fixed_point import fixed_point
from parallel_ar.samplers.gauss_seidel import gauss_seidel
from parallel_ar.samplers.hierarchical import (
  HierarchicalSample,
  HierarchicalSampler,
  Level,
  hierarchical,
  hierarchical_log_prob,
)
from parallel_ar.samplers.rejection import rejection
from parallel_ar.samplers.speculative import speculative
from parallel_ar.samplers.sweep import Sample, SampleInfo, Sampler
from parallel_ar.samplers.window import window

__all__ = [
  'HierarchicalSample',
  'HierarchicalSampler',
  'Level',
  'Sample',
  'SampleInfo',
  'Sampler',
  'ancestral',
  'cached',
  'fixed_point',
  'forecasters',
  'gauss_seidel',
  'hierarchical',
  'hierarchical_log_prob',
  'rejection',
  'speculative',
  'window',
]
