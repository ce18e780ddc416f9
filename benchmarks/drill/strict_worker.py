"""A stage worker that fails where it would go on without CUDA graphs, so that a comparison is one of graphs."""

import warnings

import stage_worker.__main__ as worker


def main() -> None:
    """Run the worker."""
    warnings.filterwarnings("error", ".*cannot be replayed")
    worker.main()


if __name__ == "__main__":
    main()
