#!/bin/sh
# Start the example application, profile it from outside for five seconds, stop it.
#   examples/run.sh [path of jsspy]
set -eu
cd "$(dirname "$0")/.."
jsspy=${1:-jsspy}
log=$(mktemp)
node examples/shop/server.js >"$log" &
server=$!
trap 'kill $server 2>/dev/null || true; rm -f "$log"' EXIT INT TERM
until grep -q ready "$log"; do
  kill -0 $server || { echo "the example application did not start" >&2; exit 1; }
  sleep 0.1
done
echo "The example application runs as pid $server, started with no flag. Profiling it for 5 seconds:"
"$jsspy" record --pid $server --duration 5 --output example-flamegraph.html
echo "Open example-flamegraph.html in a browser."
