#!/usr/bin/env bash
# Installs the programs that tests use and Python cannot bring. Where it cannot, those tests skip and say why.
set -u
cd "$(dirname "$0")/.."
pom=deploy/kafka/pom.xml
kafka=.greenlight/services/kafka # where pipelines/broker.py looks, unless KAFKA_HOME names another

have_kafka() { [ -n "${KAFKA_HOME:-}" ] || cmp -s "$pom" "$kafka/pom.xml"; }

install_programs() { # a command, or command=package, each
    local missing=()
    for wanted in "$@"; do
        command -v "${wanted%=*}" >/dev/null || missing+=("${wanted#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "not installed (needs root and apt-get): ${missing[*]}; the tests that use them will be skipped"
        return
    fi
    echo "installing ${missing[*]}"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
        echo "could not install ${missing[*]}; the tests that use them will be skipped"
}

install_kafka() {
    echo "fetching Kafka's jars (44 MB)"
    mkdir -p "$(dirname "$kafka")"
    local new
    new=$(mktemp -d "$kafka.XXXXXX")
    chmod 755 "$new"
    if mvn -q -B -f "$pom" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD/$new" >"$new/maven.txt" 2>&1 &&
        cp "$pom" "$new/pom.xml"; then
        rm -rf "$kafka"
        mv "$new" "$kafka"
    else
        grep -m 1 ERROR "$new/maven.txt"
        echo "could not fetch Kafka; the tests that use it will be skipped (KAFKA_HOME may name one that is installed)"
        rm -rf "$new"
    fi
}

install_programs strace chromium redis-server java=default-jre-headless
have_kafka || install_programs mvn=maven
have_kafka || ! command -v mvn >/dev/null || install_kafka
exit 0
