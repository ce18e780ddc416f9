"""A camera that speaks RTSP: it answers DESCRIBE, SETUP and PLAY, and sends RTP packets over the same connection.

FFmpeg's RTP muxer makes the packets, of JPEG pictures (RFC 2435); each goes out with a channel number and its length
before it (RFC 2326, 10.12).
"""

import re
import socket
import struct
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import av
import numpy as np

_DESCRIPTION = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 26\r\na=control:track\r\n"
_SETUP = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
_RTCP = 200  # the packet type of a sender's report; of RTP packets the byte is 26, or with the last of a picture 154


class _Packets:
    """The file that the muxer writes packets to."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send

    def write(self, packet: bytes) -> int:
        """Send one packet."""
        self._send(struct.pack(">cBH", b"$", int(packet[1] == _RTCP), len(packet)) + bytes(packet))
        return len(packet)


class RtspCamera:
    """Serves one connection after another: frames of brightness 20 … 215 that rise by 5, over and over."""

    def __init__(self, wait: float = 0.02) -> None:
        """`wait`: seconds between frames."""
        self._wait, self._stop, self._server = wait, threading.Event(), socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(0.1)
        self.url = f"rtsp://127.0.0.1:{self._server.getsockname()[1]}/live"
        self.asked: list[str] = []  # the requests' methods
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> "RtspCamera":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._server.accept()
            except TimeoutError:
                continue
            try:
                with connection, connection.makefile("rb") as requests:
                    connection.settimeout(10)
                    while self._answer(connection, requests) != "PLAY":
                        pass
                    self._play(connection)
            except OSError:  # the client has gone
                pass
        self._server.close()

    def _answer(self, connection: socket.socket, requests: Any) -> str:
        """Answer a request. Returns its method."""
        lines = []
        while line := requests.readline().decode().strip():
            lines.append(line)
        if not lines:
            raise ConnectionError
        method = lines[0].split()[0]
        self.asked.append(method)
        number = re.search(r"CSeq: *(\d+)", "\n".join(lines))
        assert number is not None
        more, content = "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            more, content = f"Content-Type: application/sdp\r\nContent-Length: {len(_DESCRIPTION)}\r\n", _DESCRIPTION
        elif method == "SETUP":
            more = _SETUP
        connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number[1]}\r\n{more}\r\n{content}".encode())
        return method

    def _play(self, connection: socket.socket) -> None:
        with av.open(_Packets(connection.sendall), "w", format="rtp", buffer_size=1400) as container:
            # RTP packets have neither Huffman tables nor the restart markers of slices that threads encode
            stream = container.add_stream("mjpeg", rate=25, options={"huffman": "default"})
            stream.codec_context.thread_count = 1
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
            for number in count():
                picture = np.full((48, 64, 3), 20 + 5 * (number % 40), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
                if self._stop.wait(self._wait):
                    return
