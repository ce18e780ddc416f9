"""The command line: `sideways`, or `python -m sideways`."""

from sideways.import_scope import claim_names

claim_names()

from coordinator.__main__ import main  # noqa: E402  # only now certainly ours

if __name__ == "__main__":
    main()
