"""A private Redis: access, and its end with its process."""

import subprocess
import sys
from pathlib import Path

import psutil

from common.run_registry.redis_connection import RedisAccess
from coordinator.registry.embedded_redis import SOCKET, EmbeddedRedis
from tests.support.processes import environment
from tests.support.waiting import gone


def test_a_private_server_has_no_port_and_admits_only_its_user(access: RedisAccess) -> None:
    socket_path = Path(access.shown.removeprefix("unix://"))
    assert (socket_path.stat().st_mode & 0o077, socket_path.parent.stat().st_mode & 0o077) == (0, 0)
    pid = int(access.connect().info("server")["process_id"])
    assert psutil.Process(pid).net_connections("inet") == []


def test_a_private_server_ends_with_its_process_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from coordinator.registry.embedded_redis import EmbeddedRedis\n"
        "server = EmbeddedRedis(Path(sys.argv[1]))\n"
        "print(server.access().connect().info('server')['process_id'], flush=True); time.sleep(60)"
    )
    out = subprocess.PIPE
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=out, text=True, env=environment())
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    before = (tmp_path / SOCKET).resolve()
    assert before.is_socket()
    parent.kill()
    parent.communicate()
    assert gone([pid], 5)
    server = EmbeddedRedis(tmp_path)
    assert server.access().connect().ping()
    assert not before.parent.exists()
    after = (tmp_path / SOCKET).resolve()
    server.close()
    assert not after.parent.exists()
    assert not (tmp_path / SOCKET).is_symlink()
