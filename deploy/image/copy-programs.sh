#!/bin/sh
# Copies programs to another root, with what they load: copy-programs.sh ROOT PROGRAM...
# Links are kept, and followed to what they lead to.
set -eu
root=$1
shift

copy() {
  [ -e "$root$1" ] || [ -L "$root$1" ] && return
  mkdir -p "$root$(dirname "$1")"
  cp -a "$1" "$root$1"
  if [ -L "$1" ]; then copy "$(cd "$(dirname "$1")" && realpath -s "$(readlink "$1")")"; fi
}

# Libraries by the names that programs know them by, the loader included. Debian's /lib is a link to /usr/lib.
libraries_of() {
  ldd "$1" | grep -oE '/[^ ]+' | sort -u
}

mkdir -p "$root/etc" "$root/usr/lib" "$root/usr/sbin" "$root/usr/bin"
for link in /lib /lib64 /sbin /bin; do
  [ ! -L "$link" ] || { mkdir -p "$root/$(readlink "$link")"; [ -e "$root$link" ] || cp -a "$link" "$root$link"; }
done
for program in "$@"; do
  copy "$program"
  for library in $(libraries_of "$program"); do copy "$(realpath -s "$library")"; done
done
# What iptables loads by name: it also reads rules that are not ours.
extensions=$(dirname "$(find /usr/lib -name libxt_owner.so)")
mkdir -p "$root$extensions"
cp -a "$extensions"/libxt_* "$extensions"/libipt_* "$extensions"/libip6t_* "$root$extensions"
