"""Autoregressive models, every conditional in one compiled pass.

import parallel_ar as par

model = par.from_function(fn, event=(L,), rank=par.order.raster(L),
                          head=par.heads.categorical(V), init=init)
params = model.init(key)
par.log_prob(model, params, x)            # nats[B], one pass
par.fixed_point(model)(params, keys).x    # the integers of par.ancestral
par.codec(model).encode(params, x)        # bytes, and decode() gives x back

run = par.load('runs/digits_made')        # what ./run.sh train has trained
run.log_prob(x), run.sample(16).x, run.codec().encode(run.params, x)
"""

from typing import TYPE_CHECKING

from parallel_ar import heads, lazily, order
from parallel_ar.adapters import (
  Cache,
  decode_from_cache,
  from_apply,
  from_equinox,
  from_haiku,
  from_linen,
  from_nnx,
  linen_cache,
  nnx_cache,
  past_key_values,
  windowed_decode,
)
from parallel_ar.coding import Codec, codec
from parallel_ar.decode import Decode, derive_decode, recompute_decode
from parallel_ar.doors import check_events
from parallel_ar.ending import padded, with_end
from parallel_ar.exact import Exact, NotWhole, exact
from parallel_ar.head import Head
from parallel_ar.likelihood import (
  bits_per_dim,
  log_prob,
  log_prob_terms,
  mixture_log_prob,
  sequential_log_prob,
)
from parallel_ar.model import (
  AutoregressiveModel,
  describe,
  from_function,
)
from parallel_ar.samplers import (
  Level,
  Sample,
  SampleInfo,
  Sampler,
  ancestral,
  cached,
  fixed_point,
  forecasters,
  gauss_seidel,
  hierarchical,
  hierarchical_log_prob,
  rejection,
  speculative,
  window,
)
from parallel_ar.testing.decode_laws import check_decode
from parallel_ar.transform import permute, with_temperature
from parallel_ar.types import Labels

if TYPE_CHECKING:
  from parallel_ar import analysis as analysis
  from parallel_ar import coding as coding
  from parallel_ar import data as data
  from parallel_ar import distributed as distributed
  from parallel_ar import export as export
  from parallel_ar import layers as layers
  from parallel_ar import models as models
  from parallel_ar import pretrained as pretrained
  from parallel_ar import testing as testing
  from parallel_ar import training as training
  from parallel_ar.analysis.explain import explain_decode
  from parallel_ar.training.trained import Trained, load
else:
  __getattr__ = lazily.modules_of(
    __name__,
    dict.fromkeys(('Trained', 'load'), 'training.trained')
    | {'explain_decode': 'analysis.explain'},
  )

__version__ = '0.2.0'


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, *_LATER})


_LATER = (
  *('analysis', 'coding', 'data', 'distributed', 'export', 'layers', 'models'),
  *('pretrained', 'testing', 'training'),
)
__all__ = [
  'AutoregressiveModel',
  'Cache',
  'Codec',
  'Decode',
  'Exact',
  'Head',
  'Labels',
  'Level',
  'NotWhole',
  'Sample',
  'SampleInfo',
  'Sampler',
  'Trained',
  'ancestral',
  'bits_per_dim',
  'cached',
  'check_decode',
  'check_events',
  'codec',
  'decode_from_cache',
  'derive_decode',
  'describe',
  'exact',
  'explain_decode',
  'fixed_point',
  'forecasters',
  'from_apply',
  'from_equinox',
  'from_function',
  'from_haiku',
  'from_linen',
  'from_nnx',
  'gauss_seidel',
  'heads',
  'hierarchical',
  'hierarchical_log_prob',
  'linen_cache',
  'load',
  'log_prob',
  'log_prob_terms',
  'mixture_log_prob',
  'nnx_cache',
  'order',
  'padded',
  'past_key_values',
  'permute',
  'recompute_decode',
  'rejection',
  'sequential_log_prob',
  'speculative',
  'window',
  'windowed_decode',
  'with_end',
  'with_temperature',
]
