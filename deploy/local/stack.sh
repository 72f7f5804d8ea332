#!/usr/bin/env bash
# Real servers on this machine: Kafka, Cassandra, Elasticsearch and a schema registry, from Maven Central. For the lake,
# where they are named: postgres (Debian's), s3 (versitygw, by `go install`) and catalog (Iceberg's REST catalog, on that s3).
#
#   stack.sh up       downloads (first time), starts what is not running, waits until each answers, prints where they are
#   stack.sh status   prints where they are; exit 1 unless all run
#   stack.sh down     stops them, data stays
#   stack.sh clean    stops them and removes their data
#   stack.sh fetch    only downloads
#   stack.sh java     prints which java runs them
#   stack.sh home S   prints the folder that server S was downloaded to, which it is if it was not
#
# Everything listens on 127.0.0.1. Settings, by environment:
#   MILLRACE_STACK_DIR        where state lives: data, logs, conf, pids, env   (.stack in the repository)
#   MILLRACE_STACK_PORT_BASE  the ports are this number plus 20 to 99; "auto" takes the first base that is free   (19500)
#   MILLRACE_STACK_SERVERS    which of them; none that is not named is touched   (kafka registry cassandra elasticsearch)
#   MILLRACE_STACK_WAIT       seconds that a server may take to answer   (180)
#   XDG_CACHE_HOME            downloads go to millrace/servers in it   (~/.cache)
#   JAVA_HOME                 a JDK 17, where `java` is another
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=${MILLRACE_STACK_DIR:-$(cd "$here/../.." && pwd)/.stack}
case $state in /*) ;; *) state=$PWD/$state ;; esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/millrace/servers
wait_seconds=${MILLRACE_STACK_WAIT:-180}
servers=${MILLRACE_STACK_SERVERS:-kafka registry cassandra elasticsearch}
started=""

say() { printf '%s\n' "$*" >&2; }
die() { say "stack: $*"; exit 1; }

# --- ports -----------------------------------------------------------------------------------------------------------

set_ports() {
  BASE=$1
  KAFKA_PORT=$((BASE + 92)) KAFKA_CONTROLLER_PORT=$((BASE + 93))
  REGISTRY_PORT=$((BASE + 81))
  CASSANDRA_PORT=$((BASE + 42)) CASSANDRA_STORAGE_PORT=$((BASE + 70)) CASSANDRA_JMX_PORT=$((BASE + 99))
  ELASTICSEARCH_PORT=$((BASE + 20)) ELASTICSEARCH_TRANSPORT_PORT=$((BASE + 30))
  POSTGRES_PORT=$((BASE + 32)) S3_PORT=$((BASE + 90)) CATALOG_PORT=$((BASE + 84))
}

ports_of() {
  case $1 in
    kafka) echo "$KAFKA_PORT $KAFKA_CONTROLLER_PORT" ;;
    registry) echo "$REGISTRY_PORT" ;;
    cassandra) echo "$CASSANDRA_PORT $CASSANDRA_STORAGE_PORT $CASSANDRA_JMX_PORT" ;;
    elasticsearch) echo "$ELASTICSEARCH_PORT $ELASTICSEARCH_TRANSPORT_PORT" ;;
    postgres) echo "$POSTGRES_PORT" ;;
    s3) echo "$S3_PORT" ;;
    catalog) echo "$CATALOG_PORT" ;;
  esac
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

base_is_free() {
  local name port
  set_ports "$1"
  for name in $servers; do
    for port in $(ports_of "$name"); do
      if listening "$port"; then return 1; fi
    done
  done
}

# A stack that was started keeps its ports: its data may name them, and so does whoever is configured for it.
choose_ports() {
  local base=${MILLRACE_STACK_PORT_BASE:-19500}
  if [ -s "$state/base" ] && { [ "$base" = auto ] || any_running; }; then
    base=$(cat "$state/base")
  elif [ "$base" = auto ]; then
    base=19500
    until base_is_free "$base"; do
      base=$((base + 100))
      [ "$base" -lt 29500 ] || die "no hundred free ports between 19500 and 29500"
    done
  fi
  case $base in *[!0-9]* | '') die "MILLRACE_STACK_PORT_BASE is \"$base\": give a number or auto" ;; esac
  set_ports "$base"
}

# --- processes -------------------------------------------------------------------------------------------------------

# The command line of each server has this, so that a pid that now is another's process is never ended.
mark() {
  case $1 in
    postgres) echo "millrace.stack=$state/$1" ;; # a setting with a dot in its name is free for anybody
    s3) echo "$state/data/s3" ;;
    *) echo "-Dmillrace.stack=$state/$1" ;;
  esac
}

command_of() {
  if [ -r "/proc/$1/cmdline" ]; then tr '\0' ' ' <"/proc/$1/cmdline"; else ps -ww -o command= -p "$1" 2>/dev/null; fi
}

running() {
  local pid
  [ -s "$state/pids/$1" ] || return 1
  pid=$(cat "$state/pids/$1")
  case " $(command_of "$pid" || true) " in *" $(mark "$1") "*) return 0 ;; esac
  return 1
}

any_running() {
  local name
  for name in $servers; do if running "$name"; then return 0; fi; done
  return 1
}

stop() {
  local pid i
  if running "$1"; then
    pid=$(cat "$state/pids/$1")
    case $1 in
      postgres) kill -INT "$pid" 2>/dev/null || true ;; # SIGTERM waits for its clients
      *) kill "$pid" 2>/dev/null || true ;;
    esac
    for ((i = 0; i < 300; i++)); do
      running "$1" || break
      sleep 0.1
    done
    if running "$1"; then
      say "stack: $1 ($pid) did not end within 30 s of SIGTERM: killing it"
      kill -9 "$pid" 2>/dev/null || true
    fi
    # A process that is ending has no command line any more and its ports still open.
    for ((i = 0; i < 100; i++)); do
      if ! kill -0 "$pid" 2>/dev/null || ! grep -qs '^State:.[^Z]' "/proc/$pid/status"; then break; fi
      sleep 0.1
    done
    say "stopped $1"
  fi
  rm -f "$state/pids/$1"
}

give_up() { # what this call started does not stay behind half done
  local name
  trap - EXIT INT TERM
  for name in $started; do stop "$name"; done
  unlock
  exit 1
}

lock() {
  local i
  mkdir -p "$state"
  for ((i = 0; i < 6000; i++)); do
    if mkdir "$state/lock" 2>/dev/null; then
      echo $$ >"$state/lock/pid"
      return
    fi
    if [ -s "$state/lock/pid" ] && ! kill -0 "$(cat "$state/lock/pid")" 2>/dev/null; then
      rm -rf "$state/lock" # its owner was killed
    fi
    sleep 0.1
  done
  die "another stack.sh has been at work in $state for ten minutes"
}
unlock() { rm -rf "$state/lock"; }

# --- downloads -------------------------------------------------------------------------------------------------------

java_version() { "$1" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1; }

find_java() {
  local home
  for home in "${JAVA_HOME:-}" /usr/lib/jvm/*17* /Library/Java/JavaVirtualMachines/*17*/Contents/Home \
    /opt/homebrew/opt/openjdk@17 "$(dirname "$(dirname "$(command -v java || echo /none/bin/java)")")"; do
    if [ -x "$home/bin/javac" ] && [ "$(java_version "$home/bin/java")" = 17 ]; then
      java=$home/bin/java
      export JAVA_HOME=$home
      return
    fi
  done
  die "a JDK 17 is needed (Cassandra runs on no newer one) and was not found: on Debian \`apt-get install openjdk-17-jdk-headless\`, elsewhere install one and set JAVA_HOME"
}

# Installed folders are named by what made them: another version is another folder.
home_of() { echo "$cache/$1-$(cat "$here/$1/"* "$here/log4j2.properties" 2>/dev/null | cksum | tr ' ' '-')"; }

fetch() {
  local name=$1 home tmp
  case $name in
    postgres)
      find_postgres
      return
      ;;
    s3)
      fetch_s3
      return
      ;;
  esac
  home=$(home_of "$name")
  if [ -d "$home" ]; then return; fi
  command -v mvn >/dev/null || die "Maven is needed to download the servers: on Debian \`apt-get install maven\`"
  say "downloading $name to $home"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.$name.XXXXXX")
  if ! mvn -q -B -ntp -f "$here/$name/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$tmp/lib" >"$tmp/mvn.log" 2>&1; then
    tail -n 15 "$tmp/mvn.log" >&2
    rm -rf "$tmp"
    die "downloading $name: Maven's last lines are above"
  fi
  case $name in
    registry)
      mkdir "$tmp/app"
      tar -xzf "$tmp"/lib/*.tar.gz -C "$tmp/app"
      rm -rf "$tmp/lib"
      ;;
    elasticsearch) lay_out_elasticsearch "$tmp" ;;
    catalog)
      mkdir "$tmp/classes"
      "$JAVA_HOME/bin/javac" -nowarn -d "$tmp/classes" -cp "$tmp/lib/*" "$here/catalog/LocalCatalog.java" || die "compiling LocalCatalog.java"
      ;;
  esac
  mv "$tmp" "$home" 2>/dev/null || rm -rf "$tmp" # another call was faster
}

# The transport is a module with a class loader of its own; its descriptor is in its jar. Without the name of a Java
# module it is loaded from its folder's jars.
lay_out_elasticsearch() {
  local dir=$1 module=$1/home/modules/transport-netty4
  mkdir -p "$module" "$dir/home/config" "$dir/home/plugins" "$dir/classes"
  mv "$dir"/lib/transport-netty4-* "$dir"/lib/netty-* "$module/"
  (cd "$dir" && "$JAVA_HOME/bin/jar" xf "$module"/transport-netty4-*.jar META-INF/es-plugins)
  grep -v '^modulename' "$dir/META-INF/es-plugins/transport-netty4/plugin-descriptor.properties" >"$module/plugin-descriptor.properties"
  rm -rf "$dir/META-INF"
  cp "$here/log4j2.properties" "$dir/home/config/"
  "$JAVA_HOME/bin/javac" -nowarn -d "$dir/classes" -cp "$dir/lib/*" "$here/elasticsearch/LocalNode.java" ||
    die "compiling LocalNode.java"
}

find_postgres() {
  local bin
  for bin in /usr/lib/postgresql/*/bin "$(dirname "$(command -v initdb || echo /none/initdb)")"; do
    if [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ]; then
      postgres=$bin
      return
    fi
  done
  die "PostgreSQL is needed for the lake's tests: on Debian \`apt-get install postgresql\`"
}

S3_VERSION=1.8.0 S3_KEY=millrace S3_SECRET=millrace-secret POSTGRES_PASSWORD=millrace-secret

fetch_s3() {
  local home=$cache/versitygw-$S3_VERSION tmp
  if [ -x "$home/versitygw" ]; then return; fi
  command -v go >/dev/null || die "Go is needed to build versitygw"
  say "building versitygw in $home"
  mkdir -p "$cache"
  tmp=$(mktemp -d "$cache/.s3.XXXXXX")
  if ! (cd "$tmp" && GOBIN=$tmp go install "github.com/versity/versitygw/cmd/versitygw@v$S3_VERSION"); then
    rm -rf "$tmp"
    die "building versitygw: what go said is above"
  fi
  mv "$tmp" "$home" 2>/dev/null || rm -rf "$tmp" # another call was faster
}

# --- servers ---------------------------------------------------------------------------------------------------------

render() { # fills ${NAME} of the known names in
  local text name
  text=$(cat "$1")
  for name in DATA CONF KAFKA_PORT KAFKA_CONTROLLER_PORT CASSANDRA_PORT CASSANDRA_STORAGE_PORT CASSANDRA_JMX_PORT; do
    text=${text//"\${$name}"/${!name}}
  done
  printf '%s\n' "$text"
}

run_in_background() { # name, working folder, command…: outlives this shell and its terminal
  local name=$1 dir=$2 detach=nohup
  shift 2
  if command -v setsid >/dev/null; then detach=setsid; fi
  started="$started $name"
  (cd "$dir" && exec $detach "$@") </dev/null >>"$state/logs/$name.log" 2>&1 &
  echo $! >"$state/pids/$name"
}

start() {
  local name=$1 home port i
  home=$(home_of "$name") # of postgres and s3 there is none
  for port in $(ports_of "$name"); do
    # The threads of a process that was just ended hold its ports for a moment after its first thread is gone.
    for ((i = 0; i < 50; i++)); do
      listening "$port" || break
      sleep 0.1
    done
    if listening "$port"; then
      say "stack: port $port, wanted for $name, is taken by a process that is not ours: set MILLRACE_STACK_PORT_BASE (now $BASE) to another number, or to auto"
      give_up
    fi
  done
  DATA=$state/data/$name CONF=$state/conf/$name
  mkdir -p "$DATA" "$CONF" "$state/logs" "$state/pids"
  : >"$state/logs/$name.log"
  say "starting $name"
  "start_$name" "$home"
}

start_kafka() {
  local id log4j="-Dlog4j2.configurationFile=$here/log4j2.properties"
  render "$here/kafka/server.properties" >"$CONF/server.properties"
  if [ ! -f "$DATA/log/meta.properties" ]; then
    id=A$(head -c 32 /dev/urandom | base64 | tr -d '+/=\n' | cut -c1-20)A # the last character carries two bits only
    "$java" "$log4j" -cp "$1/lib/*" kafka.tools.StorageTool format -t "$id" -c "$CONF/server.properties" >>"$state/logs/kafka.log" 2>&1 ||
      { tail -n 15 "$state/logs/kafka.log" >&2; say "stack: formatting Kafka's storage in $DATA"; give_up; }
  fi
  run_in_background kafka "$DATA" "$java" "$(mark kafka)" -Xms256m -Xmx512m -XX:+UseSerialGC "$log4j" \
    -cp "$1/lib/*" kafka.Kafka "$CONF/server.properties"
}

start_registry() {
  # In a file: a registry that forgets ids makes every record unreadable.
  export QUARKUS_HTTP_PORT=$REGISTRY_PORT QUARKUS_HTTP_HOST=127.0.0.1 APICURIO_DATASOURCE_URL="jdbc:h2:file:$DATA/registry"
  run_in_background registry "$DATA" "$java" "$(mark registry)" -Xms64m -Xmx400m -XX:+UseSerialGC -jar "$1"/app/*-runner.jar
}

start_cassandra() {
  render "$here/cassandra/cassandra.yaml" >"$CONF/cassandra.yaml"
  render "$here/cassandra/jvm.args" >"$CONF/jvm.args"
  run_in_background cassandra "$DATA" "$java" "$(mark cassandra)" "@$CONF/jvm.args" \
    "-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$1/lib/*" org.apache.cassandra.service.CassandraDaemon
}

start_elasticsearch() {
  run_in_background elasticsearch "$DATA" "$java" "$(mark elasticsearch)" -Xms512m -Xmx768m -XX:MaxDirectMemorySize=256m -XX:+UseSerialGC \
    -Des.distribution.type=tar -Djava.security.manager=allow -Dlog4j2.disable.jmx=true \
    --add-opens=java.base/java.io=ALL-UNNAMED -cp "$1/classes:$1/lib/*" org.elasticsearch.node.LocalNode \
    "$1/home" "$DATA" "$ELASTICSEARCH_PORT" "$ELASTICSEARCH_TRANSPORT_PORT"
}

# PostgreSQL refuses to run as root: then Debian's user for it does.
as_postgres() { if [ "$(id -u)" = 0 ]; then echo "setpriv --reuid=postgres --regid=postgres --clear-groups"; fi; }

start_postgres() {
  local as
  as=$(as_postgres)
  find_postgres
  if [ -n "$as" ]; then chown postgres "$DATA"; fi
  if [ ! -f "$DATA/db/PG_VERSION" ]; then
    # shellcheck disable=SC2086
    if ! (cd "$DATA" && printf '%s\n' "$POSTGRES_PASSWORD" >"$DATA/password" &&
      $as "$postgres/initdb" -D "$DATA/db" -U millrace -A scram-sha-256 -N --pwfile="$DATA/password") >>"$state/logs/postgres.log" 2>&1; then
      tail -n 15 "$state/logs/postgres.log" >&2
      say "stack: making a PostgreSQL in $DATA: its last lines are above; the user postgres must be able to reach that folder"
      give_up
    fi
  fi
  # shellcheck disable=SC2086
  run_in_background postgres "$DATA" $as "$postgres/postgres" -D "$DATA/db" -c listen_addresses=127.0.0.1 -c "port=$POSTGRES_PORT" \
    -c unix_socket_directories= -c "$(mark postgres)"
}

start_s3() {
  mkdir -p "$DATA/lake" # a folder is a bucket
  ROOT_ACCESS_KEY=$S3_KEY ROOT_SECRET_KEY=$S3_SECRET run_in_background s3 "$DATA" "$cache/versitygw-$S3_VERSION/versitygw" \
    --port "127.0.0.1:$S3_PORT" --health /health posix "$DATA"
}

start_catalog() {
  CATALOG_CATALOG__IMPL=org.apache.iceberg.jdbc.JdbcCatalog CATALOG_URI="jdbc:sqlite:$DATA/catalog.db" CATALOG_JDBC_SCHEMA__VERSION=V1 \
    CATALOG_WAREHOUSE=s3://lake/rest CATALOG_IO__IMPL=org.apache.iceberg.aws.s3.S3FileIO CATALOG_CLIENT_REGION=us-east-1 \
    CATALOG_S3_ENDPOINT="http://127.0.0.1:$S3_PORT" CATALOG_S3_PATH__STYLE__ACCESS=true \
    CATALOG_S3_ACCESS__KEY__ID=$S3_KEY CATALOG_S3_SECRET__ACCESS__KEY=$S3_SECRET \
    run_in_background catalog "$DATA" "$java" "$(mark catalog)" -Xms64m -Xmx256m -XX:+UseSerialGC -cp "$1/classes:$1/lib/*" LocalCatalog "$CATALOG_PORT"
}

# --- answers ---------------------------------------------------------------------------------------------------------

http_ok() { # port, path
  local line
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1:%s\r\n\r\n' "$2" "$1" >&3
  read -r -t 20 line <&3 || line=""
  exec 3>&-
  case $line in "HTTP/1."?" 200"*) return 0 ;; esac
  return 1
}

answered() { # port, request as printf wants it, how many bytes to read: their hex
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  # shellcheck disable=SC2059
  printf "$2" >&3
  head -c "$3" <&3 | od -An -tx1 | tr -d ' \n'
  exec 3>&-
}

answers() (
  exec 2>/dev/null
  case $1 in
    kafka) # ApiVersions, correlation id 7; and the broker says itself when its controller let it in
      grep -q 'Kafka Server started' "$state/logs/kafka.log" || exit 1
      reply=$(answered "$KAFKA_PORT" '\000\000\000\012\000\022\000\000\000\000\000\007\377\377' 8)
      case $reply in *00000007) exit 0 ;; esac
      exit 1
      ;;
    registry) http_ok "$REGISTRY_PORT" /apis/ccompat/v7/subjects ;;
    cassandra) # OPTIONS is answered with SUPPORTED
      [ "$(answered "$CASSANDRA_PORT" '\004\000\000\000\005\000\000\000\000' 5)" = 8400000006 ]
      ;;
    elasticsearch) http_ok "$ELASTICSEARCH_PORT" '/_cluster/health?wait_for_status=yellow&timeout=10s' ;;
    postgres) # a request for TLS is answered with a letter; and the log says when it takes connections
      grep -q 'ready to accept connections' "$state/logs/postgres.log" || exit 1
      case $(answered "$POSTGRES_PORT" '\000\000\000\010\004\322\026\057' 1) in 4e | 53) exit 0 ;; esac
      exit 1
      ;;
    s3) http_ok "$S3_PORT" /health ;;
    catalog) http_ok "$CATALOG_PORT" /v1/config ;;
  esac
)

await() {
  local name=$1 other again=0 end=$((SECONDS + wait_seconds))
  until answers "$name"; do
    for other in $name $started; do
      if ! running "$other"; then
        tail -n 25 "$state/logs/$other.log" >&2
        if [ $again -lt 2 ]; then # as the registry, which gives its database five seconds on a busy machine
          again=$((again + 1))
          say "stack: $other ended; its last lines are above; it is started again"
          start "$other"
          continue
        fi
        say "stack: $other ended; its last lines are above, all of them in $state/logs/$other.log"
        give_up
      fi
    done
    if [ $SECONDS -ge $end ]; then
      tail -n 25 "$state/logs/$name.log" >&2
      say "stack: $name did not answer within $wait_seconds s; its last lines are above"
      give_up
    fi
    sleep 0.2
  done
}

# --- commands --------------------------------------------------------------------------------------------------------

write_env() {
  echo "$BASE" >"$state/base"
  cat >"$state/env.new" <<EOF
export MILLRACE_KAFKA=127.0.0.1:$KAFKA_PORT
export MILLRACE_REGISTRY=http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7
export MILLRACE_CASSANDRA=127.0.0.1:$CASSANDRA_PORT
export MILLRACE_ELASTICSEARCH=http://127.0.0.1:$ELASTICSEARCH_PORT
EOF
  case " $servers " in
    *" catalog "*)
      cat >>"$state/env.new" <<EOF
export MILLRACE_LAKE_SQL=postgres://millrace@127.0.0.1:$POSTGRES_PORT/postgres MILLRACE_LAKE_SQL_PASSWORD=$POSTGRES_PASSWORD
export MILLRACE_LAKE_S3=http://127.0.0.1:$S3_PORT MILLRACE_LAKE_S3_KEY=$S3_KEY MILLRACE_LAKE_S3_SECRET=$S3_SECRET
export MILLRACE_LAKE_REST=http://127.0.0.1:$CATALOG_PORT
EOF
      ;;
  esac
  mv "$state/env.new" "$state/env"
  # The same configuration with the ports that this stack has.
  if [ -f "$here/millrace.yaml" ]; then
    sed -e "s/127\.0\.0\.1:19592/127.0.0.1:$KAFKA_PORT/" -e "s/127\.0\.0\.1:19581/127.0.0.1:$REGISTRY_PORT/" \
      -e "s/127\.0\.0\.1:19542/127.0.0.1:$CASSANDRA_PORT/" -e "s/127\.0\.0\.1:19520/127.0.0.1:$ELASTICSEARCH_PORT/" \
      "$here/millrace.yaml" >"$state/millrace.yaml"
  fi
}

show() {
  local name all=0 how
  for name in $servers; do
    how="not running"
    if running "$name"; then how="pid $(cat "$state/pids/$name")"; else all=1; fi
    case $name in
      kafka) printf '%-14s %-42s %s\n' kafka "127.0.0.1:$KAFKA_PORT" "$how" ;;
      registry) printf '%-14s %-42s %s\n' registry "http://127.0.0.1:$REGISTRY_PORT/apis/ccompat/v7" "$how" ;;
      cassandra) printf '%-14s %-42s %s\n' cassandra "127.0.0.1:$CASSANDRA_PORT" "$how" ;;
      elasticsearch) printf '%-14s %-42s %s\n' elasticsearch "http://127.0.0.1:$ELASTICSEARCH_PORT" "$how" ;;
      postgres) printf '%-14s %-42s %s\n' postgres "127.0.0.1:$POSTGRES_PORT" "$how" ;;
      s3) printf '%-14s %-42s %s\n' s3 "http://127.0.0.1:$S3_PORT" "$how" ;;
      catalog) printf '%-14s %-42s %s\n' catalog "http://127.0.0.1:$CATALOG_PORT" "$how" ;;
    esac
  done
  return $all
}

up() {
  local name
  lock
  trap give_up EXIT INT TERM
  choose_ports
  find_java
  for name in $servers; do fetch "$name"; done
  for name in $servers; do
    if ! running "$name"; then start "$name"; fi
  done
  for name in $servers; do await "$name"; done
  write_env
  trap - EXIT INT TERM
  unlock
  show
  echo
  echo "addresses: . $state/env"
  if [ "$BASE" = 19500 ]; then
    echo "run:       bin/millrace run --config deploy/local/millrace.yaml"
  else
    echo "run:       bin/millrace run --config $state/millrace.yaml"
  fi
}

down() {
  local name
  lock
  trap unlock EXIT
  for name in catalog s3 postgres elasticsearch cassandra registry kafka; do
    case " $servers " in *" $name "*) stop "$name" ;; esac
  done
}

case ${1:-} in
  up) up ;;
  down) down ;;
  clean)
    down
    rm -rf "$state/data" "$state/logs" "$state/conf" "$state/pids" "$state/env" "$state/base" "$state/millrace.yaml"
    ;;
  status)
    choose_ports
    show
    ;;
  java)
    find_java
    echo "$java"
    ;;
  home)
    [ -f "$here/${2:-}/pom.xml" ] || die "there is no server \"${2:-}\""
    find_java
    fetch "$2"
    home_of "$2"
    ;;
  fetch)
    find_java
    for name in $servers; do fetch "$name"; done
    ;;
  *)
    sed -n '2,/^set -/p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p' >&2
    exit 2
    ;;
esac
