"""An HTTP server on the loopback interface that misbehaves on request."""

import contextlib
import http.server
import threading
from collections.abc import Iterator


class Server(http.server.ThreadingHTTPServer):
  """Serves `content` by path; a dict of faults by path changes how.

  Attributes:
    content: path -> bytes.
    drop_after: path -> bytes after which the FIRST answer breaks off.
    no_ranges: whether Range headers are ignored.
    requests: (path, Range header or None) of every request.
  """

  daemon_threads = True

  def __init__(self):
    super().__init__(('127.0.0.1', 0), _Handler)
    self.content: dict[str, bytes] = {}
    self.drop_after: dict[str, int] = {}
    self.no_ranges = False
    self.requests: list[tuple[str, str | None]] = []

  def handle_error(self, request, client_address):
    """A client that hangs up early is part of the tests."""

  @property
  def url(self) -> str:
    return f'http://127.0.0.1:{self.server_address[1]}'


@contextlib.contextmanager
def serve() -> Iterator[Server]:
  """A running server; it is shut down on leaving."""
  with Server() as server:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
  server: Server

  def do_GET(self):
    path, asked = self.path, self.headers.get('Range')
    self.server.requests.append((path, asked))
    content = self.server.content.get(path)
    if content is None:
      self.send_error(404)
      return
    start = 0
    if asked and not self.server.no_ranges:
      start = int(asked.removeprefix('bytes=').rstrip('-'))
      if start >= len(content):
        self.send_error(416)
        return
      self.send_response(206)
      last = len(content) - 1
      self.send_header('Content-Range', f'bytes {start}-{last}/{len(content)}')
    else:
      self.send_response(200)
    body = content[start:]
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    self.wfile.write(body[: self.server.drop_after.pop(path, None)])

  def log_message(self, *args):
    del args
