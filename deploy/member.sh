#!/bin/sh
# One member of a run in a container: member coordinator RUN_FILE [OPTIONS…] | member stage
# STAGES says how many stages there are, MEETING where the coordinator's agent listens (host:port).
set -eu
role=$1
shift
address=$(hostname -i | cut -d' ' -f1)
export SIDEWAYS_ADDRESS="$address"
[ "$role" != coordinator ] || [ -z "${PREPARE:-}" ] || sh -c "$PREPARE"
exec torchrun --nnodes "$((STAGES + 1))" --nproc-per-node 1 --local-addr "$address" --max-restarts "${RESTARTS:-100}" \
    --rdzv-backend c10d --rdzv-id "${SIDEWAYS_LAUNCH:-sideways}" --rdzv-endpoint "$MEETING" \
    -m coordinator join --role "$role" "$@"
