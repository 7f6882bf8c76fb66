#!/usr/bin/env bash
# Ends with 0 if the role in this container is ready: asks /readyz on the port of OPS_LISTEN, with nothing but bash.
set -euo pipefail

address=${OPS_LISTEN:-127.0.0.1:9090}
# An open connection that says nothing is not ready either.
exec 3<>"/dev/tcp/127.0.0.1/${address##*:}"
printf 'GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
read -r -t 2 status <&3
[[ $status == 'HTTP/1.'?' 200'* ]]
