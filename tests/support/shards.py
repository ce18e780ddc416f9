"""Tar files of small clips, and an HTTP server that hands them out."""

import io
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


def write_shards(folder: Path, clips: Sequence[tuple[Path, int]], each: int) -> list[Path]:
    """Write files with their labels into shards of `each` clips; labels by turns as .cls and .json."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for first in range(0, len(clips), each):
        shard = folder / f"{first // each:03d}.tar"
        with tarfile.open(shard, "w") as tar:
            for number, (path, label) in enumerate(clips[first : first + each], first):
                tar.add(path, f"{number:04d}{path.suffix}")
                if number % 2:
                    add(tar, f"{number:04d}.json", json.dumps({"label": label, "id": number}).encode())
                else:
                    add(tar, f"{number:04d}.cls", f"{label}\n".encode())
        shards.append(shard)
    return shards


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Note the request, and that it was for a part."""
        part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if part is None or not self.server.parts:  # type: ignore[attr-defined]
            self.server.asked.append(self.path)  # type: ignore[attr-defined]
            return super().do_GET()
        self.server.asked.append(f"{self.path} in part")  # type: ignore[attr-defined]
        content = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(part[1]), min(int(part[2]), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        return None

    def send_header(self, keyword: str, value: str) -> None:
        """Without the size, if the server does not say it."""
        if keyword != "Content-Length" or self.server.sized:  # type: ignore[attr-defined]
            super().send_header(keyword, value)

    def end_headers(self) -> None:
        """Say whether parts can be asked for."""
        if self.server.parts:  # type: ignore[attr-defined]
            self.send_header("Accept-Ranges", "bytes")
        super().end_headers()


@contextmanager
def served(folder: Path, parts: bool = False, sized: bool = True) -> Iterator[tuple[str, list[str]]]:
    """The address at which a folder's files, or parts of them, are served, and the paths asked for with GET so far.

    `sized`: whether the server says how large they are.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as server:
        asked: list[str] = []
        server.asked, server.parts, server.sized = asked, parts, sized  # type: ignore[attr-defined]
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()
