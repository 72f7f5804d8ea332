#!/usr/bin/env bash
# setup.sh WHAT…: sees to it that what the named steps of the Makefile need is there.
#
#   go        Go of the version that go.mod names, or one that fetches it
#   compiler  a C and a C++ compiler, for DuckDB
#   servers   JDK 17 and Maven, for deploy/local/stack.sh
#   readers   Python 3 with venv, for the readers in deploy/e2e that are not ours
#   faults    iproute2 and iptables, for the network namespace in which deploy/faults drops packets
#
# On Debian as root it installs what is missing; elsewhere it says what to install and fails.
set -euo pipefail

missing_packages="" missing_words=""

need() { # what it is, Debian's packages for it
  missing_words="$missing_words
  - $1   (Debian: $2)"
  missing_packages="$missing_packages $2"
}

has() { command -v "$1" >/dev/null 2>&1; }

has_jdk_17() {
  local home
  for home in "${JAVA_HOME:-}" /usr/lib/jvm/*17* /Library/Java/JavaVirtualMachines/*17*/Contents/Home /opt/homebrew/opt/openjdk@17; do
    if [ -x "$home/bin/javac" ] && "$home/bin/java" -version 2>&1 | grep -q ' version "17'; then return 0; fi
  done
  has javac && java -version 2>&1 | grep -q ' version "17'
}

check() {
  missing_packages="" missing_words=""
  local what
  for what in "$@"; do
    case $what in
      go) has go || { echo "setup: Go is missing: https://go.dev/dl has it; the version is in go.mod" >&2; exit 1; } ;;
      compiler) if ! has "${CC:-gcc}" || ! has "${CXX:-g++}"; then need "a C and a C++ compiler" "gcc g++ libc6-dev"; fi ;;
      servers)
        has_jdk_17 || need "a JDK 17 (JAVA_HOME names it where java is another)" openjdk-17-jdk-headless
        has mvn || need "Apache Maven" maven
        ;;
      readers)
        { has python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; } || need "Python 3 with venv" "python3 python3-venv"
        has curl || need curl curl
        ;;
      faults)
        has ip || need "ip of iproute2" iproute2
        has iptables || need iptables iptables
        has nsenter || need "nsenter of util-linux" util-linux
        ;;
      *) echo "setup: no such step: $what" >&2; exit 2 ;;
    esac
  done
}

check "$@"
if [ -z "$missing_packages" ]; then exit 0; fi
if [ -f /etc/debian_version ] && [ "$(id -u)" = 0 ]; then
  echo "setup: installing$missing_packages" >&2
  apt-get update -qq
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing_packages >&2
  check "$@"
  if [ -z "$missing_packages" ]; then exit 0; fi
fi
echo "setup: this is missing, install it and try again:$missing_words" >&2
exit 1
