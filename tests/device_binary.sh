#!/usr/bin/env bash
# Checks the binary for devices: under 8 MB, no libtorch, and it evaluates, runs
# and measures a packed model.
set -euo pipefail
cd "$(dirname "$0")/.."
thimble=$1     # the binary to check
compressor=$2  # one with libtorch, to make a packed model
size=$(stat -c %s "$thimble")
echo "device binary: $size bytes"
[ "$size" -lt 8000000 ] || { echo "device binary: over 8 MB"; exit 1; }
if ldd "$thimble" | grep -E 'torch|c10|python'; then
  echo "device binary: needs libraries that devices do not have"; exit 1
fi
# Run where no libtorch can be found.
run() { env -u LIBTORCH -u LD_LIBRARY_PATH "$thimble" "$@"; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$compressor" compress recipes/demo.toml --model assets/demo/model --out "$work/packed" > /dev/null
for model in assets/demo/model "$work/packed"; do
  run run "$model" --prompt 'Once upon a time' --max-tokens 16 --temperature 0 | grep -q 'little girl'
  run eval "$model" --text assets/demo/held-out.txt --max-windows 2 --json | grep -q '"perplexity"'
  run bench "$model" --prompt-tokens 32 --gen-tokens 8 --repeat 1 --json | grep -q '"decode_tokens_per_s"'
done
code=0
run compress recipes/demo.toml --model assets/demo/model --out "$work/none" 2> /dev/null || code=$?
[ "$code" = 4 ] || { echo "device binary: compress should say that this build cannot (exit 4, not $code)"; exit 1; }
echo "device binary: ok"
