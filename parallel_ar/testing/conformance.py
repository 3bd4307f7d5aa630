"""The conformance suite: every model against every law.

  1  causality           the D x D dependency matrix, bit for bit
     static              the same for every input, proved from the program
  2  normalisation       the probabilities of all events sum to 1
  3  one_pass            one pass equals the sequential oracle
  4  decode_agreement    `extend` over any blocks equals the pass
     derived             also of the path that is derived from the pass
  5  same_integers       every sampler returns the ancestral sample of a key
     alone               also of a key that is the only one of its batch
     completion          also where positions are given
     cached, window,
     forecast,
     speculative         also where a cache, a forecaster or a draft guesses
     eight_devices       also when the batch is spread over devices
  6  codec               what is encoded is decoded, at the promised size
  7  known_entropy       a trained model reaches the entropy of its source
  8  portable            the same integers in any program, of a model in whole
                         numbers; `exact_laws.portable`, which makes one
  9  doors               what comes in is right, or refused, or nan under jit

Law 7 takes a source instead of a case; law 8 compiles another model, and is
tried by itself.
Every law returns one line that says what it measured, or raises LawBroken.

What floating point may do. XLA compiles one program for each batch size and
each number of devices, and these round the same network differently. Inside a
program equality is exact, and no law forgives anything. Between programs two
values of a pick may nearly tie and the tie fall otherwise; such a sample is
forgiven only if `oracles.near_tie` shows the tie, and it is counted in the
line. Under jax.enable_x64 nothing is forgiven.
"""

from collections.abc import Callable

from parallel_ar.testing import (
  coding_laws,
  decode_laws,
  door_laws,
  draft_laws,
  likelihood_laws,
  sampling_laws,
)
from parallel_ar.testing.case import Case, LawBroken, make_case
from parallel_ar.testing.entropy_laws import known_entropy

__all__ = ['LAWS', 'Case', 'LawBroken', 'check', 'known_entropy', 'make_case']

LAWS: dict[str, Callable[[Case], str]] = {
  'causality': likelihood_laws.causality,
  'static': likelihood_laws.static_causality,
  'normalisation': likelihood_laws.normalisation,
  'one_pass': likelihood_laws.one_pass,
  'doors': door_laws.refusals,
  'decode_agreement': decode_laws.decode_agreement,
  'derived': decode_laws.derived,
  'same_integers': sampling_laws.same_integers,
  'alone': sampling_laws.alone,
  'completion': sampling_laws.completion,
  'cached': draft_laws.cached,
  'forecast': draft_laws.forecast,
  'window': draft_laws.window,
  'speculative': draft_laws.speculative,
  'codec': coding_laws.codec,
  'eight_devices': sampling_laws.eight_devices,
}


def check(case: Case) -> list[str]:
  """Tries a case on all laws.

  Args:
    case: a tiny case: law 2 enumerates V^D <= 4096 events, and the last law
      needs 8 devices (virtual ones will do).

  Returns:
    One line for each law.

  Raises:
    LawBroken: with the law, the case and what was found.
  """
  return [f'{name}: {law(case)}' for name, law in LAWS.items()]
