"""The static audit: what each output can read, for any input and parameters.

The model's functions are traced once, and sets of positions are carried through
the traced program (a jaxpr) instead of numbers. What is known before any input
is seen, the masks, is computed: an entry times a known zero reads nothing, a
maximum over scores reads none that are masked, a softmax gives them weight
zero. So where the audit of `analysis.causality` shows a leak by an example,
this one proves that there is none, and names the operation where there is one.

It assumes that numbers are finite (0 * x is 0), and that scores that are not
masked lie between -1e8 and 1e8. A quantity that cancels, as in x_j - x_j,
counts as read, except inside Fourier transforms.
"""

from parallel_ar.analysis.static.check import Finding, Static, check

__all__ = ['Finding', 'Static', 'check']
