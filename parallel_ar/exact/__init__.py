"""The same integers everywhere: conditionals that cannot round."""

from parallel_ar.exact.builder import NotWhole
from parallel_ar.exact.record import Exact, Product, Report, exact, of_program
from parallel_ar.exact.reference import Program, load, save
from parallel_ar.exact.straight_through import straight_through

__all__ = [
  'Exact',
  'NotWhole',
  'Product',
  'Program',
  'Report',
  'exact',
  'load',
  'of_program',
  'save',
  'straight_through',
]
