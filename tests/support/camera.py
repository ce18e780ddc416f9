"""A live source over a real local connection."""

import io
import socket
import threading

import av
import numpy as np

from tests.support.videos import video_stream


def transport_stream(frames: int, level: int, step: int) -> list[bytes]:
    """MPEG-TS of plain key frames, in pieces; frame n is of brightness level + step · (n mod 40)."""
    buffer, pieces, done = io.BytesIO(), [], 0
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = video_stream(container, "mpeg2video", 25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 32, 24, "yuv420p", 1
        for number in range(frames):
            picture = np.full((24, 32, 3), level + step * (number % 40), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            pieces.append(buffer.getvalue()[done:])
            done = len(buffer.getvalue())
    return pieces


class Camera:
    """Serves HTTP connections one after another: sends `frames` frames, `wait` seconds apart, then disconnects."""

    def __init__(self, frames: int, level: int = 20, wait: float = 0.0, step: int = 4) -> None:
        self._pieces, self._wait = transport_stream(frames, level, step), wait
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self.url = f"http://camera:secret@127.0.0.1:{self._server.getsockname()[1]}/live.ts"
        self.served, self.on, self.stop = 0, True, threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Stop sending until `go`."""
        self._go.clear()

    def go(self) -> None:
        """Continue sending."""
        self._go.set()

    def _serve(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            with connection:
                try:
                    connection.recv(4096)
                    if self.on:
                        self._send(connection)
                except OSError:
                    pass
        self._server.close()

    def _send(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
        self.served += 1
        for piece in self._pieces:
            while not self._go.wait(0.05):
                if self.stop.is_set():
                    return
            connection.sendall(piece)
            if self.stop.wait(self._wait):
                return

    def close(self) -> None:
        self.stop.set()
        self._thread.join(5)
