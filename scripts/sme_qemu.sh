#!/usr/bin/env bash
# sme_qemu.sh DIR: unpack a qemu-aarch64 that emulates SME2 (10.1 or newer, static) into DIR from the
# backports of Debian 13 and print its path, for tests on Debian systems whose own qemu is older.
# Installs nothing and leaves apt's lists alone. A copy that is there already is kept.
set -euo pipefail
[ $# = 1 ] || { echo "usage: sme_qemu.sh DIR" >&2; exit 2; }
mkdir -p "$1"
qemu=$(cd "$1" && pwd)/qemu-aarch64
if [ ! -x "$qemu" ]; then
  work=$(mktemp -d "${TMPDIR:-/tmp}/sme-qemu.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir -p "$work"/{sources,lists/partial,cache/archives/partial,deb}
  touch "$work/status"
  # The mirror that this system uses.
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' | grep -v security | head -n 1)
  [ -n "$uri" ] || { echo "apt knows no Debian mirror" >&2; exit 1; }
  cat >"$work/sources/backports.sources" <<SOURCES
Types: deb
URIs: $uri
Suites: trixie-backports
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
  options=(-qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/sources"
    -o "Dir::State::Lists=$work/lists" -o "Dir::State::status=$work/status"
    -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" update >&2
  (cd "$work/deb" && apt-get "${options[@]}" download qemu-user >&2)
  dpkg-deb --extract "$work"/deb/*.deb "$work/unpacked"
  mv "$work/unpacked/usr/bin/qemu-aarch64" "$qemu.part"
  mv "$qemu.part" "$qemu"
fi
echo "$qemu"
