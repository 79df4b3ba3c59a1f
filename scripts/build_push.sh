#!/bin/sh
# Build the image of this checkout and push it.
#   ./scripts/build_push.sh registry.example.com/team          wmtp:cuda-<commit> and wmtp:cuda
#   ./scripts/build_push.sh registry.example.com/team cpu      the CPU's; TORCH_INDEX=… makes it several GB smaller
#   PUSH=false ./scripts/build_push.sh registry.example.com/team     build only
# BASE=IMAGE and TORCH_INDEX=ADDRESS are handed to the Dockerfile. Log in beforehand: docker login.
set -eu

fail() { echo "build_push.sh: $1" >&2; exit 2; }

registry=${1:-}
variant=${2:-cuda}
[ -n "$registry" ] || fail "say where to push: ./scripts/build_push.sh REGISTRY/NAMESPACE [cuda|cpu]"
case $variant in cuda | cpu) ;; *) fail "$variant is no variant; give cuda or cpu" ;; esac
docker=${DOCKER:-docker}   # podman takes the same arguments
command -v "$docker" >/dev/null || fail "$docker is not installed here; set DOCKER=podman, or build where one is"

cd "$(dirname "$0")/.."
commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || commit=$commit-dirty

image=${registry%/}/wmtp
set -- --build-arg "VARIANT=$variant" --label "org.opencontainers.image.revision=$commit"
[ -z "${BASE:-}" ] || set -- "$@" --build-arg "BASE=$BASE"
[ -z "${TORCH_INDEX:-}" ] || set -- "$@" --build-arg "TORCH_INDEX=$TORCH_INDEX"
"$docker" build "$@" -t "$image:$variant-$commit" -t "$image:$variant" .
[ "${PUSH:-true}" = true ] || exit 0
"$docker" push "$image:$variant-$commit"
"$docker" push "$image:$variant"
echo "$image:$variant-$commit"
