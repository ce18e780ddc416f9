#!/bin/sh
# One member of a deployed run, with its own torchrun: member coordinator RUN_FILE [OPTIONS…] | member stage | reader
# Or all processes of a run on one host: member all RUN_FILE [OPTIONS…]
#
# WORKERS           number of stage workers: stages × replicas
# READERS           number of readers: data.readers; default: 0
# MEETING           host:port of the rendezvous, where the coordinator's torchrun listens
# SIDEWAYS_LAUNCH   name of the launch: members started again under this name continue its run until that is complete
# SIDEWAYS_ADDRESS  address at which the others reach this member; default: the host's first address
# PATIENCE          seconds to wait for the other members; default: 600
# PREPARE           shell command that the coordinator runs first
# RESTARTS          most restarts by torchrun; default: 100
set -eu
role=$1
shift
serves=false
patience=${PATIENCE:-600}
others=$((WORKERS + ${READERS:-0}))
export SIDEWAYS_ADDRESS="${SIDEWAYS_ADDRESS:-$(hostname -I | cut -d' ' -f1)}"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else a restart reads the addresses of the previous attempt
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}"
if [ "$role" != stage ] && [ "$role" != reader ]; then
    serves=true
    python -P -m coordinator join "$@" --check  # a wrong setting ends with exit code 2 at once, not after all restarts
    [ -z "${PREPARE:-}" ] || sh -c "$PREPARE"
else
    probe="import socket; socket.create_connection(('${MEETING%:*}', ${MEETING##*:}), 5)"
    until python -c "$probe" 2>/dev/null; do  # the name may not resolve yet; torchrun would give up after a minute
        sleep 1
        patience=$((patience - 1))
        [ "$patience" -gt 0 ] || { echo "member: no coordinator answers at $MEETING: check its log" >&2; exit 1; }
    done
fi
if [ "$role" = all ]; then
    nodes=1 processes=$((others + 1))
else
    nodes=$((others + 1)) processes=1
    set -- --role "$role" "$@"
fi
exec python -P -m coordinator.launch.agent --nnodes "$nodes" --nproc-per-node "$processes" \
    --local-addr "$SIDEWAYS_ADDRESS" --max-restarts "${RESTARTS:-100}" --rdzv-backend c10d --rdzv-id "${SIDEWAYS_LAUNCH:-sideways}" \
    --rdzv-endpoint "$MEETING" --rdzv-conf "is_host=$serves,join_timeout=$patience" \
    -m coordinator join "$@"
