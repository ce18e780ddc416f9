"""What is shown of settings that hold passwords."""

from common.config.run_file import parse
from common.config.secrets import public_settings, without_secrets


def test_addresses_lose_what_looks_like_a_credential() -> None:
    assert without_secrets("rtsp://admin:pw@camera/stream") == "rtsp://…@camera/stream"
    assert without_secrets("https://x/a?width=3&api_token=abc&b=1") == "https://x/a?width=3&api_token=…&b=1"
    assert without_secrets("/dev/video0") == "/dev/video0"


def test_settings_are_public_but_for_passwords() -> None:
    data = {"sources": ["rtsp://admin:pw@camera/stream", "/dev/video0"], "source_options": {"password": "pw"}}
    tree, hidden = public_settings(parse({"ticks": 9, "task": "autoencode", "model": "autoencoder", "data": data}, "x"))
    assert hidden
    assert "pw" not in str(tree)
    assert tree["data"]["sources"] == ["rtsp://…@camera/stream", "/dev/video0"]
    data = {"train": "s3://bucket/{000..009}.tar", "shard_options": {"secret": "abc"}}
    tree, hidden = public_settings(parse({"ticks": 9, "data": data}, "x"))
    assert hidden
    assert "abc" not in str(tree)
    tree, hidden = public_settings(parse({"ticks": 9, "data": {"train": "videos"}}, "x"))
    assert not hidden
    assert tree["data"]["train"] == "videos"
