#!/usr/bin/env bash
# Checks a build with --features cuda on a machine with a GPU: compresses a small model by GPTQ at
# 4 bits, distils a student for some steps, and evaluates, on the GPU and on the CPU. Each pair of
# perplexities agrees within 0.5 %. Takes under five minutes and builds nothing: `make cuda-binary`
# builds the binary, on any machine; here it runs with the torch 2.11.0 of PYTHON.
#
#   tests/gpu.sh target/cuda/release/thimble ../shared/data
#
# Exit codes: 0 all agree, 1 one does not or a run fails, 77 skipped because there is no GPU.
# PYTHON=python3 names an interpreter that has torch. DEVICE=cpu runs the CPU against itself.
set -euo pipefail
thimble=$(realpath "${1:?the binary}")
data=$(realpath "${2:?the folder of models and texts}")
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
tolerance=0.005

fail() { echo "check-gpu: $*" >&2; exit 1; }

model=$data/models/house-6m
calibration=$data/text/tinystories/calib.txt
held_out=$data/text/tinystories/valid.txt
for file in "$model/config.json" "$calibration" "$held_out"; do
  [ -e "$file" ] || fail "no $file: DATA names the folder that has models/house-6m and text/tinystories"
done

if [ "$device" = cuda ] && ! compgen -G '/dev/nvidia[0-9]*' > /dev/null; then
  echo "check-gpu: skipped: this machine has no NVIDIA GPU (no /dev/nvidia0); DEVICE=cpu tries the script without one"
  exit 77
fi

[ -x "$thimble" ] || fail "no binary at $thimble: make cuda-binary builds it, on any machine with the same libc"
torch=$("$python" -W ignore -c 'import os, torch; print(torch.__version__, os.path.dirname(torch.__file__))') ||
  fail "$python cannot import torch: PYTHON names an interpreter that has torch 2.11.0"
case $torch in
  2.11.0[\ +]*) ;;
  *) fail "the binary needs torch 2.11.0, and $python has $torch" ;;
esac
export LD_LIBRARY_PATH="${torch#* }/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
echo "check-gpu: $device against cpu, torch ${torch%% *}"
if [ "$device" = cuda ]; then
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/gptq.toml" <<END
[calibration]
text = "$calibration"
sequences = 64
length = 256
[[stage]]
[stage.gptq]
bits = 4
group_size = 64
[evaluate]
text = "$held_out"
window = 256
max_windows = 32
activations = "f32"
END

# Twenty steps of 16 × 128 tokens.
cat > "$work/distil.toml" <<END
[[stage]]
[stage.student]
layers = "every_second"
[[stage]]
[stage.distil]
[stage.distil.training]
text = ["$calibration"]
tokens = 40_960
length = 128
batch = 16
micro_batch = 8
[evaluate]
text = "$held_out"
window = 256
max_windows = 32
activations = "f32"
END

# Runs a command with --json, and notes its time and what it printed.
measure() { # NAME SIDE COMMAND…
  local begin=$EPOCHREALTIME name=$1 side=$2
  shift 2
  "$thimble" "$@" --json > "$work/report.json" 2> "$work/log" || fail "$name, $side: exit code $?: thimble $*
$(tail -n 20 "$work/log")"
  "$python" - "$name" "$side" "$begin" "$EPOCHREALTIME" "$work/report.json" >> "$work/results" <<'END'
import json, sys
name, side, begin, end, path = sys.argv[1:]
report = json.load(open(path))
print(json.dumps([name, side, report.get("after", report)["perplexity"], float(end) - float(begin)]))
END
}

for side in cpu gpu; do
  on=cpu
  if [ "$side" = gpu ]; then on=$device; fi
  measure "GPTQ, 4 bits" "$side" compress "$work/gptq.toml" --model "$model" --out "$work/gptq-$side" --device "$on"
  measure "distil, 20 steps" "$side" compress "$work/distil.toml" --model "$model" --out "$work/distil-$side" --device "$on"
  # One file for both sides.
  for what in "$model" "$work/gptq-cpu"; do
    measure "eval of $(basename "$what")" "$side" eval "$what" --backend torch --device "$on" \
      --text "$held_out" --window 256 --max-windows 32
  done
done

"$python" - "$work/results" "$device" "$tolerance" <<'END'
import json, sys
path, device, tolerance = sys.argv[1], sys.argv[2], float(sys.argv[3])
rows = {}
for name, side, perplexity, seconds in map(json.loads, open(path)):
    rows.setdefault(name, {})[side] = (perplexity, seconds)
print(f"{'':24}{'cpu':>12}{device:>12}{'apart':>10}{'cpu, s':>10}{device + ', s':>10}")
missed = []
for name, sides in rows.items():
    (cpu, cpu_s), (gpu, gpu_s) = sides["cpu"], sides["gpu"]
    apart = abs(gpu / cpu - 1)
    print(f"{name:24}{cpu:12.4f}{gpu:12.4f}{100 * apart:9.3f}%{cpu_s:10.1f}{gpu_s:10.1f}")
    if not apart <= tolerance:  # nor where one is NaN
        missed.append(name)
if missed:
    sys.exit(f"check-gpu: more than {100 * tolerance} % apart: {', '.join(missed)}")
print("check-gpu: ok")
END
