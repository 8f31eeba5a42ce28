"""Places for data sets in tests: a folder, and a bucket of an S3-compatible server that the tests start."""

import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xnemo_platform import storage


@contextmanager
def s3_server() -> Iterator[None]:
    """An empty server in this process; the environment names it, as it would a real one."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        S3FileSystem.clear_instance_cache()  # it remembers the server of the tests before
        try:
            yield
        finally:
            server.stop()


def bucket() -> str:
    """URI of a new bucket on the running server."""
    uri = f"s3://t{uuid.uuid4().hex[:12]}"
    fs, path = storage.filesystem(uri)
    fs.mkdir(path)
    return uri


def upload(folder: Path, uri: str) -> str:
    """Copy a local folder below `uri`."""
    for name in storage.list_files(str(folder)):
        storage.publish_file(storage.join(uri, name), Path(os.path.join(folder, name)))
    return uri
