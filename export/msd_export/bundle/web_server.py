"""`msd demo`: serves a bundle for the web, with its runtime, on this machine alone."""

import mimetypes
import shutil
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from msd_export.bundle.npm_packages import ONNXRUNTIME_WEB, fetch_package

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' blob: data:;"
    " object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def fetch_runtime() -> Path:
    """Return a folder with onnxruntime-web's files, fetched by npm once.

    Raises:
        RuntimeUnavailableError: npm is missing, or it cannot fetch the package.
    """
    return fetch_package(ONNXRUNTIME_WEB) / "dist"


class BundleServer(ThreadingHTTPServer):
    """Serves a bundle's files, and the runtime's below /runtime/, and nothing else."""

    daemon_threads = True

    def __init__(self, bundle: Path, runtime: Path, port: int = 0) -> None:
        """Begin to listen; 0 takes any free port.

        Raises:
            OSError: The port is in use.
        """
        self.roots = {"runtime": runtime.resolve(), "": bundle.resolve()}
        super().__init__((HOST, port), _Handler)

    @property
    def address(self) -> str:
        """The address of the demo page."""
        return f"http://{HOST}:{self.server_port}/demo/"

    def file_of(self, path: str) -> Path | None:
        """Return the file of a requested path; None: there is none, or it lies elsewhere."""
        parts = [part for part in unquote(urlsplit(path).path).split("/") if part]
        name = parts[0] if parts and parts[0] in self.roots else ""
        root = self.roots[name]
        found = root.joinpath(*parts[1:] if name else parts)
        if found.is_dir():
            found = found / "index.html"
        try:
            found = found.resolve(strict=True)
        except (OSError, ValueError):
            return None
        return found if found.is_relative_to(root) and found.is_file() else None


class _Handler(BaseHTTPRequestHandler):
    server: BundleServer

    def do_GET(self) -> None:
        """Send a file."""
        self._send(with_content=True)

    def do_HEAD(self) -> None:
        """Send a file's headers."""
        self._send(with_content=False)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: stderr is for notes."""

    def _send(self, *, with_content: bool) -> None:
        if urlsplit(self.path).path == "/":
            self.send_response(HTTPStatus.FOUND)
            self.send_header("Location", "/demo/")
            self.end_headers()
            return
        # Another site whose name leads to this machine must not read what is served here.
        if self.headers.get("Host") not in {f"{name}:{self.server.server_port}" for name in _NAMES}:
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        found = self.server.file_of(self.path)
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind = _TYPES.get(found.suffix) or mimetypes.guess_type(found.name)[0]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(found.stat().st_size))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        # Isolated from other sites, a page has a clock of 5 microseconds instead of 100.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.end_headers()
        if with_content:
            with found.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
