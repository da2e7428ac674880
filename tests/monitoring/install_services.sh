#!/bin/sh
# Installs Debian's Prometheus and Alertmanager, with promtool and amtool, for the tests that run them.
# Debian would start both as services, on all interfaces: here they are not started.
set -eu
packages="prometheus prometheus-alertmanager"

missing=
for program in prometheus promtool prometheus-alertmanager amtool; do
    command -v "$program" >/dev/null || missing="$missing $program"
done
if [ -z "$missing" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "missing:$missing; this script needs apt-get (Debian, Ubuntu), elsewhere put them on the PATH" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    exec sudo "$0"
fi
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
# Without lists of packages apt knows none.
apt-cache show $packages >/dev/null 2>&1 || apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $packages
prometheus --version
prometheus-alertmanager --version
