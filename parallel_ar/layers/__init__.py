"""Linen layers, per example: masked dense and convolution, attention."""

from typing import TYPE_CHECKING

from parallel_ar import lazily

if not TYPE_CHECKING:
  __getattr__ = lazily.modules_of(__name__)
