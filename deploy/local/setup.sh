#!/usr/bin/env bash
# setup.sh WHAT…: sees to it that what the named steps of the Makefile need is there.
#
#   go        Go of the version that go.mod names, or one that fetches it
#   compiler  a C and a C++ compiler, for DuckDB
#   servers   JDK 17 and Maven, for deploy/local/stack.sh
#   lake      PostgreSQL, without a cluster of its own that runs, for the lake's tests on servers
#   readers   Python 3 with venv, for the readers in deploy/e2e that are not ours
#   faults    iproute2 and iptables, for the network namespace in which deploy/faults drops packets
#   prometheus  Debian's Prometheus and Alertmanager with their tools, unpacked into Millrace's cache: nothing is installed,
#             no service starts
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

has_postgres() {
  local bin
  for bin in /usr/lib/postgresql/*/bin/initdb; do if [ -x "$bin" ]; then return 0; fi; done
  has initdb
}

prometheus_in="${XDG_CACHE_HOME:-$HOME/.cache}/millrace/prometheus"

has_prometheus() {
  local tool
  for tool in prometheus promtool prometheus-alertmanager amtool; do
    [ -x "$prometheus_in/usr/bin/$tool" ] || return 1
  done
}

# Unpacked beside its place and moved there whole: one that was cut off does not look like one that is done.
unpack_prometheus() {
  local new
  has apt-get && has dpkg || return 0
  mkdir -p "$(dirname "$prometheus_in")"
  new=$(mktemp -d "$prometheus_in.XXXXXX")
  chmod 755 "$new" # apt's own user downloads into it
  echo "setup: downloading Debian's prometheus and prometheus-alertmanager into $prometheus_in" >&2
  if (
    cd "$new" &&
      { apt-get download -qq prometheus prometheus-alertmanager 2>/dev/null ||
        { apt-get update -qq && apt-get download -qq prometheus prometheus-alertmanager; }; } >&2 &&
      for package in *.deb; do dpkg -x "$package" . || exit 1; done &&
      rm -f -- *.deb
  ); then
    rm -rf "$prometheus_in" && mv "$new" "$prometheus_in"
  else
    rm -rf "$new"
  fi
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
      lake)
        has_postgres || need "PostgreSQL's server" postgresql
        has setpriv || need "setpriv of util-linux" util-linux
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
      prometheus)
        has_prometheus || unpack_prometheus
        has_prometheus || {
          echo "setup: Prometheus is missing and could not be had from Debian: put prometheus, promtool, prometheus-alertmanager (Alertmanager under Debian's name) and amtool into $prometheus_in/usr/bin" >&2
          exit 1
        }
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
  case " $missing_packages " in
    *" postgresql "*) # installing it would make a cluster and start it
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-common >&2
      sed -i 's/^#* *create_main_cluster .*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
      ;;
  esac
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing_packages >&2
  check "$@"
  if [ -z "$missing_packages" ]; then exit 0; fi
fi
echo "setup: this is missing, install it and try again:$missing_words" >&2
exit 1
