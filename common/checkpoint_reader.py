"""Safe reading of untrusted torch.distributed.checkpoint checkpoints.

The index (`.metadata`) is a pickle, and unpickling can run arbitrary code. Here only the classes that an index consists
of are allowed. torch itself reads the tensor files, with weights_only.
"""

import pickle
from typing import Any

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta

_INDEX = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
    "torch": {"Size", "contiguous_format", "strided", "device", "float16", "bfloat16", "float32", "float64", "uint8",
              "int8", "int16", "int32", "int64", "uint16", "bool"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath"},
}  # fmt: skip
_MOVED = {"pathlib._local": "pathlib"}  # Python 3.13's name; an index may be read by another version than wrote it


class CheckpointReader(FileSystemReader):
    """Reads a checkpoint folder with a restricted unpickler."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index. Raises pickle.UnpicklingError if it refers to anything that is not allowed."""
        with self.fs.create_stream(self._get_metadata_path(kwargs.get("rank")), "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("its index holds no checkpoint metadata")
        metadata.storage_meta = getattr(metadata, "storage_meta", None) or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def _member(kind: Any, name: str) -> Any:
    """Stand-in for `getattr` that only returns members of `_MEM_FORMAT_ENCODING`, the one enum in an index."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"its index asks for an attribute of {kind!r}, which is not allowed")
    return _MEM_FORMAT_ENCODING[name]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Allow only the classes that an index consists of."""
        if (module, name) == ("builtins", "getattr"):
            return _member  # some versions of Python pickle an enum member as getattr(enum, name)
        module = _MOVED.get(module, module)
        if name in _INDEX.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"its index refers to {module}.{name}, which no index needs: it is unsafe to load")
