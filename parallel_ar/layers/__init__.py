"""Linen layers, per example: masked dense and convolution, attention."""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if TYPE_CHECKING:
  from parallel_ar.layers import attention as attention
  from parallel_ar.layers import block as block
  from parallel_ar.layers import conv as conv
  from parallel_ar.layers import deer as deer
  from parallel_ar.layers import dense as dense
  from parallel_ar.layers import dilated as dilated
  from parallel_ar.layers import embedding as embedding
  from parallel_ar.layers import flash as flash
  from parallel_ar.layers import gated as gated
  from parallel_ar.layers import kernels as kernels
  from parallel_ar.layers import recurrence as recurrence
  from parallel_ar.layers import remat as remat
  from parallel_ar.layers import scan as scan
  from parallel_ar.layers import sharded as sharded
  from parallel_ar.layers import streams as streams
else:
  __getattr__ = lazily.modules_of(__name__)
