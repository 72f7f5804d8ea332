#!/usr/bin/env bash
# readme.sh FILE: runs the commands of a document as they are written in it, from the root of the repository.
#
# It runs the ```sh blocks that have a mark before them, in order, each in a shell that stops at the first error:
#
#   <!-- ci -->             the block has to succeed
#   <!-- ci:background -->  the block keeps running; it goes on when the first address it prints answers on /-/ready.
#                           At the end it is interrupted as by Ctrl-C and has to end by itself.
#   <!-- expect: TEXT -->   after a mark: TEXT has to be in what the block prints
set -euo pipefail

file=$1
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -r "$file" ] || { echo "readme.sh: $file cannot be read" >&2; exit 2; }
work=$(mktemp -d)
groups=""

say() { printf '\n== %s\n' "$*"; }

finish() {
  local group
  for group in $groups; do kill -KILL -- "-$group" 2>/dev/null || true; done
  rm -rf "$work"
}
trap finish EXIT

# One file per block: N.sh, N.mode, N.expect.
awk -v dir="$work" '
  inside && /^```/ { inside = 0; close(out); next }
  inside { print > out; next }
  /^<!-- ci -->$/ { mode = "run"; expect = ""; next }
  /^<!-- ci:background -->$/ { mode = "background"; expect = ""; next }
  /^<!-- expect: .* -->$/ && mode != "" { text = $0; sub(/^<!-- expect: /, "", text); sub(/ -->$/, "", text); expect = expect text "\n"; next }
  /^```sh$/ && mode != "" {
    n++; out = dir "/" n ".sh"; inside = 1
    print mode > (dir "/" n ".mode"); printf "%s", expect > (dir "/" n ".expect")
    mode = ""; next
  }
  /[^ ]/ { mode = "" }
' "$file"
[ -f "$work/1.sh" ] || { echo "readme.sh: $file has no block marked for CI" >&2; exit 1; }

expected() { # block number, file of its output
  local text
  while IFS= read -r text; do
    if ! grep -qF -- "$text" "$2"; then
      cat "$2" >&2
      echo "readme.sh: \"$text\" is not in what block $1 of $file printed (above)" >&2
      return 1
    fi
  done <"$work/$1.expect"
}

run() {
  say "block $1 of $file"
  cat "$work/$1.sh"
  echo "--"
  # Not in a pipe: a command that stays behind would keep it open.
  if ! bash -euo pipefail "$work/$1.sh" >"$work/$1.out" 2>&1 </dev/null; then
    cat "$work/$1.out"
    echo "readme.sh: block $1 of $file ended with an error" >&2
    return 1
  fi
  cut -c1-300 "$work/$1.out" | sed -n 1,40p # head would end cut by a signal, which pipefail takes for a failure
  expected "$1" "$work/$1.out"
}

background() {
  local address="" end=$((SECONDS + 900))
  say "block $1 of $file, in the background"
  cat "$work/$1.sh"
  echo "--"
  set -m # a process group of its own
  bash -euo pipefail "$work/$1.sh" >"$work/$1.out" 2>&1 </dev/null &
  set +m
  groups="$groups $!"
  until [ -n "$address" ] && curl -fsS -o /dev/null "$address/-/ready" 2>/dev/null; do
    if ! kill -0 "$!" 2>/dev/null || [ $SECONDS -ge $end ]; then
      cat "$work/$1.out" >&2
      echo "readme.sh: block $1 of $file did not come to answer on /-/ready; its output is above" >&2
      return 1
    fi
    sleep 0.5
    address=$(grep -oE 'http://[0-9a-z.]+:[0-9]+' "$work/$1.out" | head -n 1 || true)
  done
  head -n 20 "$work/$1.out"
  expected "$1" "$work/$1.out"
}

n=0
while n=$((n + 1)) && [ -f "$work/$n.sh" ]; do
  case $(cat "$work/$n.mode") in
    run) run "$n" ;;
    background) background "$n" ;;
  esac
done

for group in $groups; do
  say "interrupting what runs in the background"
  kill -INT -- "-$group"
  for ((i = 0; i < 600; i++)); do
    kill -0 -- "-$group" 2>/dev/null || break
    sleep 0.1
  done
  if kill -0 -- "-$group" 2>/dev/null; then
    tail -n 20 "$work"/*.out >&2
    echo "readme.sh: what ran in the background did not end within 60 s of an interrupt" >&2
    exit 1
  fi
done
groups=""
say "$file: $((n - 1)) blocks as written"
