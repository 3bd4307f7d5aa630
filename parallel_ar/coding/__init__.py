"""Lossless compression with any model whose head has probabilities."""

from parallel_ar.coding.account import Account, account
from parallel_ar.coding.codec import Codec, codec
from parallel_ar.coding.container import BadFile, Decoded, read_header
from parallel_ar.coding.quantize import PRECISION, quantized

__all__ = [
  'PRECISION',
  'Account',
  'BadFile',
  'Codec',
  'Decoded',
  'account',
  'codec',
  'quantized',
  'read_header',
]
