"""Steps in a bucket, where nothing can be renamed.

  STEP/...                    objects of a step, and of a draft
  STEP/commit_success.txt     the marker, orbax's own: the step is there
  corrupt-STEP-N/...          copied aside, see `checkpoint`

A save writes the objects, opens them again, waits for the release and then
writes the marker, one whole object; a removal takes the marker first. What has
no marker is a draft, which the next start removes. So a kill at any moment
leaves the newest released step whole, as on a disk.

Markers are asked for by their names and not by a listing, by which a step would
be taken for a draft where something between lists late, as a cache does. Orbax
itself lists what it has just written: Google shows it at once, and where it is
not shown a save fails and says so.
"""

import asyncio
import pathlib

import orbax.checkpoint as ocp

from parallel_ar.training import bucket, checkpoint_store

MARKER = ocp.path.atomicity.COMMIT_SUCCESS_FILE


def store(
  directory: pathlib.Path, *, read_only: bool
) -> checkpoint_store.Store:
  """The steps of a directory, on a disk or in a bucket."""
  kind = BucketStore if bucket.is_address(directory) else checkpoint_store.Store
  return kind(directory, read_only=read_only)


class _Draft(ocp.path.atomicity.CommitFileTemporaryPath):
  """What orbax writes; the marker is the store's."""

  publish: checkpoint_store.Publish

  async def finalize(self) -> None:
    if self._checkpoint_metadata_store:
      written = self._checkpoint_metadata_store.wait_until_finished
      await asyncio.to_thread(written)
    await asyncio.to_thread(self.publish, bucket.place(self.get_final()))


class BucketStore(checkpoint_store.Store):
  """As `Store`, of addresses."""

  _kind = _Draft
  _look = (
    'look whether the bucket answers, may be written, and lists at once what '
    'was written, without a cache between'
  )

  def steps(self) -> list[int]:
    """Steps with their marker, oldest first."""
    return [step for step in super().steps() if self._is_there(step)]

  def _make_directory(self) -> None:
    """A bucket has none."""

  def _names(self) -> list[str]:
    return bucket.names(self.directory)

  def _is_there(self, step: int) -> bool:
    return bucket.is_file(self.path(step) / MARKER)

  def _drafts(self) -> list[pathlib.Path]:
    there = set(self.steps())
    steps = [int(name) for name in self._names() if name.isdecimal()]
    return [self.path(step) for step in steps if step not in there]

  def _begin(self, step: int) -> pathlib.Path:
    return self.path(step)

  def _release(self, draft: pathlib.Path, step: int) -> None:
    bucket.write(draft / MARKER, b'Released by parallel_ar.')

  def _rename(self, step: int, name: str) -> None:
    bucket.copy(self.path(step), self.directory / name)
    self._remove(self.path(step))

  def _remove(self, path: pathlib.Path) -> None:
    bucket.remove(path / MARKER)
    bucket.remove(path)

  def _sync(self, path: pathlib.Path) -> None:
    """What a bucket has answered, it keeps."""
