"""Tests of the catalogue: that it is well formed and fits the loaders."""

import re

from parallel_ar.data import catalogue, sources


def test_entries_are_well_formed():
  for name, entry in catalogue.CATALOGUE.items():
    assert entry.folder == name
    for file in entry.files:
      assert entry.package or any(form.urls for form in file.forms)
      for form in file.forms:
        assert re.fullmatch(
          '(file:)?[0-9a-f]{64}|git:[0-9a-f]{40}', form.digest
        )
        assert form.num_bytes > 0
        for url in form.urls:
          assert url.rsplit('/', 1)[-1].removesuffix('.gz') == file.name


def test_digests_are_all_different():
  files = [f for entry in catalogue.CATALOGUE.values() for f in entry.files]
  digests = [form.digest for file in files for form in file.forms]
  assert len(set(digests)) == len(digests)
  assert catalogue.whose(digests[0]) == 'mnist/train-images-idx3-ubyte'
  assert catalogue.whose('0') is None


def test_what_can_be_fetched_can_be_loaded():
  assert set(catalogue.CATALOGUE) <= set(sources.SOURCES)
  assert set(catalogue.BY_HAND) <= set(sources.SOURCES)
  assert not set(catalogue.BY_HAND) & set(catalogue.CATALOGUE)
  assert set(catalogue.ALIASES) <= set(sources.SOURCES)
