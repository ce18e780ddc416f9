"""The stage worker: the process that runs one stage, a contiguous group of the model's blocks."""

from sideways.import_scope import claim_names as _claim_names

_claim_names()  # another `common`, of the user, may come first on the path (PYTHONPATH, torchrun)
