"""Connecting to Redis. The password never appears in a message.

REDIS_URL             redis://[user:password@]host[:port][/number], rediss://… for TLS, unix://path
REDIS_URL_FILE        a file that holds the URL
REDIS_PASSWORD_FILE   a file that holds the password
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from common.errors import ConfigError

if TYPE_CHECKING:
    from redis import Redis

_SCHEMES = ("redis", "rediss", "unix")
_CONNECT, _ANSWER = 3.0, 5.0  # seconds


@dataclass(frozen=True)
class RedisAccess:
    """The address and password of a Redis server."""

    url: str = field(repr=False)
    password: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The URL without user, password and options, for messages."""
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            return f"unix://{parts.path}"
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "localhost"
        return f"{parts.scheme}://{host}:{parts.port or 6379}{parts.path}"

    def connect(self) -> "Redis":
        """Create a client, which connects on first use. Every wait has a deadline; nothing is retried.

        Raises:
            ConfigError: the URL is invalid.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        once = Retry(NoBackoff(), 0)
        options = {"socket_timeout": _ANSWER, "socket_connect_timeout": _CONNECT, "retry": once, "protocol": 2}
        if self.password is not None:
            options["password"] = self.password
        try:
            return redis.Redis.from_url(self.url, **options)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"REDIS_URL is invalid: {self.explain(error)}") from None

    def explain(self, error: Exception) -> str:
        """The first line of an error's text, with all secrets masked."""
        text = (str(error) or type(error).__name__).splitlines()[0]
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text[:300]

    def access(self) -> "RedisAccess":
        """Return self: an external server is not started by the run."""
        return self

    def on_no_answer(self) -> None:
        """Do nothing: an external server is not restarted by the run."""

    def close(self) -> None:
        """Do nothing: an external server is not stopped by the run."""

    def _secrets(self) -> list[str]:
        userinfo = urlsplit(self.url).netloc.rpartition("@")[0]
        written = userinfo.partition(":")[2]
        return [secret for secret in (self.url, userinfo, written, unquote(written), self.password) if secret]


def at_socket(path: Path) -> RedisAccess:
    """The server that listens on a Unix socket."""
    return RedisAccess(f"unix://{quote(str(path))}")


def from_environment(environment: Mapping[str, str] = os.environ) -> RedisAccess | None:
    """The Redis server set in the environment, or None if there is none.

    Raises:
        ConfigError: the URL is invalid, or a file cannot be read or is empty.
    """
    url = environment.get("REDIS_URL", "").strip()
    if not url and (file := environment.get("REDIS_URL_FILE")):
        url = _secret("REDIS_URL_FILE", file)
    if not url:
        return None
    _check(url)
    file = environment.get("REDIS_PASSWORD_FILE")
    return RedisAccess(url, _secret("REDIS_PASSWORD_FILE", file) if file else None)


def _check(url: str) -> None:
    """Raise ConfigError for an invalid URL. The message does not quote it, since it may hold a password."""
    remedy = "write it as redis://[user:password@]host[:port], rediss://… for TLS, or unix://path"
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"REDIS_URL is not the address of a Redis server: {remedy}, with special characters as %XX")


def _secret(name: str, file: str) -> str:
    try:
        text = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} = {file} cannot be read: {error}") from None
    if not text:
        raise ConfigError(f"{name} = {file} is empty")
    return text
