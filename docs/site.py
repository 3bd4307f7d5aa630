"""What `mkdocs build` adds to the pages of docs/; mkdocs.yml names this file.

The README is the first page; files of the repository that pages link to are
part of the site; a notebook is a page of its cells; pages that no section of
mkdocs.yml names stand under More, design records under Design.
"""

import json
import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
_LINK = re.compile(r'\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)')
_FIRST = {'README.md': 'index.md'}


def on_config(config):
  """Completes the sections of mkdocs.yml."""
  named = set(re.findall(r"'([\w/]+\.md)'", repr(config.nav)))
  pages = (ROOT / 'docs').rglob('*.md')
  names = sorted(p.relative_to(ROOT / 'docs').as_posix() for p in pages)
  more = [n for n in names if n not in named and not n.startswith('design/')]
  more += ['repository/CONTRIBUTING.md', 'repository/CHANGELOG.md']
  design = [n for n in names if n.startswith('design/')]
  config.nav += [{'More': [*more, {'Design': design}]}]
  return config


def on_files(files, config):
  """Adds the README, what pages link to, and the notebooks."""
  for path in sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb')):
    made = File.generated(
      config, f'notebooks/{path.stem}.md', content=page_of(path)
    )
    files.append(made)
  waiting = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md']
  waiting += [f'docs/{f.src_uri}' for f in files.documentation_pages()]
  seen = set(waiting)
  for path in waiting:  # which grows
    if not path.startswith('docs/'):
      uri = _uri(path)
      made = File.generated(config, uri, abs_src_path=str(ROOT / path))
      files.append(made)
    source = ROOT / path
    if path.endswith('.md') and source.exists():
      for link in _LINK.finditer(source.read_text()):
        target = _target(path, link[2])
        inside = target and not target.startswith('docs/')
        if inside and target not in seen and (ROOT / target).is_file():
          seen.add(target)
          waiting.append(target)
  return files


def on_page_markdown(markdown, page, **_):
  """Links to files of the repository become links to their place here."""
  uri = page.file.src_uri
  path = {v: k for k, v in _FIRST.items()}.get(uri, f'docs/{uri}')
  path = path.replace('docs/repository/', '')

  def place(link: re.Match[str]) -> str:
    text, there, anchor = link[1], link[2], link[3] or ''
    target = _target(path, there)
    if target is None:
      return link[0]
    if (ROOT / target).is_dir():
      return text
    away = posixpath.relpath(_uri(target), posixpath.dirname(uri) or '.')
    return f'[{text}]({away}{anchor})'

  return _LINK.sub(place, markdown)


def page_of(path: pathlib.Path) -> str:
  """The cells of a notebook as Markdown, with what they print."""
  parts = []
  for cell in json.loads(path.read_text())['cells']:
    text = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(text)
      continue
    parts.append(f'```python\n{text}\n```')
    for output in cell['outputs']:
      parts.append(f'```text\n{"".join(output["text"]).rstrip()}\n```')
  parts.append(f'The notebook itself: [{path.name}]({path.name}).')
  return '\n\n'.join(parts)


def _target(path: str, link: str) -> str | None:
  """What a link of a page names, from the root; None for nothing there."""
  at = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
  there = not at.startswith('..') and (ROOT / at).exists()
  return at if there else None


def _uri(path: str) -> str:
  """Where a file of the repository lies in the site."""
  if path in _FIRST:
    return _FIRST[path]
  if path.startswith('docs/'):
    return path.removeprefix('docs/')
  return f'repository/{path}'
