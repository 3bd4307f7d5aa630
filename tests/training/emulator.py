"""A Google Cloud Storage of one bucket, in memory, on loopback.

What gcsfs and TensorStore ask of it: objects with generations, and
preconditions on them; ranges; uploads in one request, of parts or resumable;
listings by prefix; copies; batches of deletions. It forgets with its process.
"""

import http.server
import itertools
import json
import os
import re
import sys
import threading
import urllib.parse

BUCKET = 'pod'


class Emulator:
  """Serves from `start` to `close`; a context manager.

  Attributes:
    objects: name -> (generation, content).
    fail: called with (method, name) before each request; a status to answer
      with in its place, or None.
  """

  def __init__(self):
    self.objects: dict[str, tuple[int, bytes]] = {}
    self.fail = lambda method, name: None
    self.lock = threading.RLock()
    self.generations = itertools.count(1)
    self.uploads: dict[str, str] = {}
    handler = type('Bound', (_Handler,), {'emulator': self})
    self._server = _Server(('127.0.0.1', 0), handler)
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    self.url = f'http://127.0.0.1:{self._server.server_port}'

  @property
  def environment(self):
    """What makes the clients ask here; set it before they are imported."""
    return {
      'STORAGE_EMULATOR_HOST': self.url,
      'TENSORSTORE_GCS_HTTP_URL': self.url,
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'token',
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      'GOOGLE_CLOUD_PROJECT': 'project',
      'no_proxy': '127.0.0.1',
    }

  def names(self, prefix=''):
    """Objects below a prefix."""
    with self.lock:
      return sorted(n for n in self.objects if n.startswith(prefix))

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._server.shutdown()
    self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
  daemon_threads = True

  def handle_error(self, *unused):
    """Clients hang up on answers that they no longer want."""
    if not isinstance(sys.exception(), ConnectionError):
      super().handle_error(*unused)


class _Handler(http.server.BaseHTTPRequestHandler):
  emulator: Emulator
  protocol_version = 'HTTP/1.1'
  # Else the second packet of an answer waits 40 ms for the client to ask.
  disable_nagle_algorithm = True

  def log_message(self, *unused):
    pass

  def _serve(self):
    url = urllib.parse.urlsplit(self.path)
    self.query = dict(urllib.parse.parse_qsl(url.query))
    size = int(self.headers.get('Content-Length') or 0)
    self.body = self._chunks() if not size else self.rfile.read(size)
    path = re.sub('^/(download|resumable)?/?storage/v1', '', url.path)
    parts = path.removeprefix('/upload/storage/v1').split('/')
    name = urllib.parse.unquote('/'.join(parts[4:]))
    asked = name or self.query.get('name') or self.query.get('prefix', '')
    status = self.emulator.fail(self.command, asked)
    with self.emulator.lock:
      if status:
        self._say({'error': {'code': status, 'message': 'planted'}}, status)
      elif url.path.startswith('/batch'):
        self._batch()
      elif parts[:2] == ['', 'b'] and parts[2:3] not in ([], [BUCKET]):
        self._missing()
      elif url.path.startswith('/upload'):
        self._upload()
      elif parts[:3] == ['', 'b', BUCKET] and len(parts) == 3:
        self._say({'kind': 'storage#bucket', 'name': BUCKET})
      elif name:
        self._object(name)
      elif parts[:4] == ['', 'b', BUCKET, 'o']:
        self._list()
      else:
        self._missing()

  def __getattr__(self, name):
    if name.startswith('do_'):
      return self._serve
    raise AttributeError(name)

  def _chunks(self):
    if self.headers.get('Transfer-Encoding', '').lower() != 'chunked':
      return b''
    parts = []
    while size := int(self.rfile.readline().strip() or b'0', 16):
      parts.append(self.rfile.read(size))
      self.rfile.readline()
    self.rfile.readline()
    return b''.join(parts)

  def _say(self, content, status=200, **headers):
    if not isinstance(content, bytes):
      headers['Content-Type'] = 'application/json'
      content = json.dumps(content).encode()
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key.replace('_', '-'), str(value))
    if 'Content_Length' not in headers:  # of an answer that breaks off
      self.send_header('Content-Length', str(len(content)))
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(content)

  def _missing(self):
    self._say({'error': {'code': 404, 'message': 'No such object'}}, 404)

  def _facts(self, name):
    generation, content = self.emulator.objects[name]
    return {
      'kind': 'storage#object',
      'bucket': BUCKET,
      'name': name,
      'generation': str(generation),
      'metageneration': '1',
      'size': str(len(content)),
      'updated': '2026-01-01T00:00:00.000Z',
      'timeCreated': '2026-01-01T00:00:00.000Z',
    }

  def _allowed(self, name):
    """Whether the preconditions hold; answers where they do not."""
    now = self.emulator.objects.get(name, (0, b''))[0]
    wanted = self.query.get('ifGenerationMatch')
    if wanted is not None and int(wanted) != now:
      self._say({'error': {'code': 412, 'message': 'conditionNotMet'}}, 412)
      return False
    other = self.query.get('ifGenerationNotMatch')
    if other is not None and int(other) == now:
      self._say(b'', 304)
      return False
    return True

  def _put(self, name, content):
    if self._allowed(name):
      generation = next(self.emulator.generations)
      self.emulator.objects[name] = generation, content
      self._say(self._facts(name))

  def _upload(self):
    kind = self.query.get('uploadType')
    if upload := self.query.get('upload_id'):
      self._put(self.emulator.uploads[upload], self.body)
    elif kind == 'resumable':
      upload = os.urandom(8).hex()
      name = self.query.get('name') or json.loads(self.body)['name']
      self.emulator.uploads[upload] = name
      place = f'{self.emulator.url}{self.path}&upload_id={upload}'
      self._say(b'', Location=place)
    elif kind == 'multipart':
      mark = b'--' + self._boundary().encode()
      parts = self.body.split(mark, 2)[1:]
      blank = re.compile(rb'\r?\n\r?\n')
      facts, content = (blank.split(part, maxsplit=1)[1] for part in parts)
      content = content[: content.rindex(mark)]
      content = content.removesuffix(b'\n').removesuffix(b'\r')
      self._put(json.loads(facts)['name'], content)
    else:
      self._put(self.query['name'], self.body)

  def _object(self, name):
    copied = re.fullmatch('(.*)/(copyTo|rewriteTo)/b/[^/]+/o/(.*)', name)
    if copied:
      source, _, target = copied.groups()
      if source not in self.emulator.objects:
        return self._missing()
      generation = next(self.emulator.generations)
      content = self.emulator.objects[source][1]
      self.emulator.objects[target] = generation, content
      self._say({'done': True, 'resource': self._facts(target)})
    elif name not in self.emulator.objects:
      self._missing()
    elif not self._allowed(name):
      pass
    elif self.command == 'DELETE':
      del self.emulator.objects[name]
      self._say(b'', 204)
    elif self.query.get('alt') == 'media':
      self._media(name)
    else:
      self._say(self._facts(name))

  def _media(self, name):
    generation, content = self.emulator.objects[name]
    headers = {'x_goog_generation': generation}
    span = re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', ''))
    if span is None:
      self._say(content, **headers)
      return
    first, last = span.groups()
    size = len(content)
    begin = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if begin >= size:
      self._say(b'', 416, Content_Range=f'bytes */{size}')
      return
    headers['Content_Range'] = f'bytes {begin}-{end - 1}/{size}'
    self._say(content[begin:end], 206, **headers)

  def _list(self):
    prefix, delimiter = (self.query.get(k, '') for k in ('prefix', 'delimiter'))
    begin, end = (self.query.get(k, '') for k in ('startOffset', 'endOffset'))
    items, prefixes = [], set()
    for name in self.emulator.names(prefix):
      if name < begin or (end and name >= end):
        continue
      rest = name[len(prefix) :]
      if delimiter and delimiter in rest:
        prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
      else:
        items.append(self._facts(name))
    self._say({'items': items, 'prefixes': sorted(prefixes)})

  def _boundary(self):
    return re.search('boundary="?([^";]+)', self.headers['Content-Type'])[1]

  def _batch(self):
    boundary, answers = self._boundary(), []
    for number, path in enumerate(
      re.findall(rb'DELETE \S*?/storage/v1/b/[^/]+/o/(\S+)', self.body), 1
    ):
      name = urllib.parse.unquote(path.decode().partition('?')[0])
      found = self.emulator.objects.pop(name, None)
      status = '204 No Content' if found else '404 Not Found'
      answers.append(
        f'--{boundary}\r\nContent-Type: application/http\r\n'
        f'Content-ID: <response-{number}>\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n'
      )
    text = ''.join(answers) + f'--{boundary}--\r\n'
    kind = f'multipart/mixed; boundary={boundary}'
    self._say(text.encode(), Content_Type=kind)
