"""The coordinator: reads video, feeds the pipeline and monitors it."""

from sideways.import_scope import claim_names as _claim_names

_claim_names()  # another `common` may come first on the path (PYTHONPATH, torchrun)
