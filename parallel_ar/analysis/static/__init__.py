"""The static audit: what each output can read, for any input and parameters.

The model's functions are traced once, and sets of positions are carried through
the traced program (a jaxpr) instead of numbers. What is known before any input
is seen, the masks, is computed: an entry times a known zero reads nothing, a
maximum over scores reads none that are masked, a softmax gives them weight
zero. So where the audit of `analysis.causality` shows a leak by an example,
this one proves that there is none, and names the operation where there is one.

Between which bounds a number lies is carried along, from the alphabet of the
inputs on: a comparison that always comes out the same is known, and 0 * x reads
nothing only where x is finite for sure. A softmax gives a masked entry weight
zero only if its row is not masked as a whole. Where that depends on data, the
audit says that it cannot decide, and why. What is still assumed stands in
`check.ASSUMED`, and in each sentence that says "proved". A quantity that
cancels, as in x_j - x_j, counts as read, except inside Fourier transforms.
"""

from parallel_ar.analysis.static.check import Finding, Static, check

__all__ = ['Finding', 'Static', 'check']
