#!/bin/bash
# Set up Swift 6.0.3 of Debian trixie in a chroot, ROOT. Skips what is there.
set -euo pipefail
: "${ROOT:?is the folder of the chroot}"
MIRROR=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1)}

if ! command -v debootstrap > /dev/null; then
    apt-get update -q
    apt-get install -y -q --no-install-recommends debootstrap
fi
if [ ! -e "$ROOT/var/lib/dpkg/status" ] || [ -e "$ROOT/debootstrap" ]; then
    debootstrap --variant=minbase trixie "$ROOT" "$MIRROR"
fi
if [ ! -x "$ROOT/usr/libexec/swift/bin/swift" ]; then
    cp /etc/resolv.conf "$ROOT/etc/resolv.conf"
    chroot "$ROOT" apt-get update -q
    chroot "$ROOT" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q \
        --no-install-recommends swiftlang swiftlang-dev libc6-dev libstdc++-14-dev
    chroot "$ROOT" apt-get clean
fi
