#!/usr/bin/env bash
# Exits with 0 if the role in this container is ready: requests /readyz on the port of OPS_LISTEN, with bash alone.
set -euo pipefail

address=${OPS_LISTEN:-127.0.0.1:9090}
# A role that accepts the connection but does not answer is not ready either.
exec 3<>"/dev/tcp/127.0.0.1/${address##*:}"
printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 2 status <&3
[[ $status == 'HTTP/1.'?' 200'* ]]
