#!/usr/bin/env bash
# Installs the programs that tests use and Python cannot bring. Where it cannot, those tests skip and say why.
set -u
missing=()
command -v strace >/dev/null || missing+=(strace)
command -v chromium >/dev/null || missing+=(chromium)
command -v redis-server >/dev/null || missing+=(redis-server)
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "not installed (needs root and apt-get): ${missing[*]}; the tests that use them will be skipped"
    exit 0
fi
echo "installing ${missing[*]}"
{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null ||
    echo "could not install ${missing[*]}; the tests that use them will be skipped"
