"""The laws a model and a sampler must obey, and impostors that must not pass.

from parallel_ar.testing import conformance

case = conformance.make_case(model)       # or with trained params
for line in conformance.check(case):      # raises LawBroken, and says why
  print(line)
"""
