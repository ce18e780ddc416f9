#!/bin/sh
# One member of a deployed run, under a torchrun of its own: member coordinator RUN_FILE [OPTIONS…] | member stage
#
# STAGES            how many stages there are
# MEETING           host:port at which the coordinator's torchrun listens and all others meet it
# SIDEWAYS_LAUNCH   the run's name: as long as it has ticks to do, what is started anew under this name goes on with it
# SIDEWAYS_ADDRESS  by which the others reach this member; default: the host's first
# PATIENCE          seconds for the others to appear, 600 by default
set -eu
role=$1
shift
serves=false
patience=${PATIENCE:-600}
export SIDEWAYS_ADDRESS="${SIDEWAYS_ADDRESS:-$(hostname -I | cut -d' ' -f1)}"
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1  # else a restart meets the addresses of the dead
export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}"
if [ "$role" = coordinator ]; then
    serves=true
    python -P -m coordinator join "$@" --check  # a wrong setting is told once, with exit code 2, not at every restart
    [ -z "${PREPARE:-}" ] || sh -c "$PREPARE"
else
    meets="import socket; socket.create_connection(('${MEETING%:*}', ${MEETING##*:}), 5)"
    until python -c "$meets" 2>/dev/null; do  # its name may not be known yet; torchrun would give up after a minute
        sleep 1
        patience=$((patience - 1))
        [ "$patience" -gt 0 ] || { echo "member: no coordinator at $MEETING: see what became of it" >&2; exit 1; }
    done
fi
exec torchrun --nnodes "$((STAGES + 1))" --nproc-per-node 1 --local-addr "$SIDEWAYS_ADDRESS" \
    --max-restarts "${RESTARTS:-100}" --rdzv-backend c10d --rdzv-id "${SIDEWAYS_LAUNCH:-sideways}" \
    --rdzv-endpoint "$MEETING" --rdzv-conf "is_host=$serves,join_timeout=$patience" \
    -m coordinator join --role "$role" "$@"
