#!/usr/bin/env bash
# Installs the Debian packages that building and trying Sluice needs, those that are missing only, and says which first.
# With the argument "bench", also those of the forwarders that `make bench-apps` compares it with; with "test", those
# that look at what the director says of itself; with "deb", those that look at its own package.
set -euo pipefail

build=(clang gcc libbpf-dev libelf-dev linux-libc-dev make pkg-config zlib1g-dev)
try=(coreutils curl dnsmasq-base ethtool iproute2 iputils-ping keepalived lftp libusrsctp-examples nginx-light vsftpd wrk)
look=(chromium man-db mandoc openssl prometheus tshark)
packaging=(lintian mmdebstrap)
compare=(haproxy libnginx-mod-stream nftables)

needed=("${build[@]}" "${try[@]}")
case "${1:-}" in
"") ;;
bench) needed+=("${compare[@]}") ;;
test) needed+=("${look[@]}") ;;
deb) needed+=("${packaging[@]}") ;;
*)
    echo "deps: there is no set of packages \"$1\"; give none, \"bench\", \"test\" or \"deb\"" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "deps: this is no Debian. These packages are needed, by whatever name: ${needed[*]}" >&2
    exit 0
fi

missing=()
for package in "${needed[@]}"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "deps: installing ${missing[*]}"
if [ "$(id -u)" -ne 0 ]; then
    echo "deps: this needs root. Run: sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
    exit 1
fi

# Debian starts servers as soon as nginx, vsftpd, haproxy and prometheus are installed. Only the programs are wanted.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
    trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "${missing[@]}"
for service in nginx-light:nginx vsftpd:vsftpd haproxy:haproxy prometheus:prometheus; do
    if [[ " ${missing[*]} " == *" ${service%:*} "* ]] && command -v systemctl >/dev/null; then
        systemctl disable "${service#*:}" >/dev/null 2>&1 || true
    fi
done
