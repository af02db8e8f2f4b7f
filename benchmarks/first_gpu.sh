#!/usr/bin/env bash
# The first minutes on a GPU: bash benchmarks/first_gpu.sh FOLDER
#
# Nine minutes at most, the most important first. Every part has a limit of its own, and what it found is in FOLDER
# whatever becomes of the next: summary.txt, results.tar.gz (JSON, logs, the run's metrics) and profile.tar.gz. It needs
# no network. The Python that runs it (PYTHON=python3) has jax for CUDA, flax, optax, orbax-checkpoint, OpenCV, torch and
# torchvision; packages that it lacks can lie as wheels in a folder, WHEELS.
#
# MINUTES=9 is the limit of all. TINY=1 tries everything on a CPU, at sizes that mean nothing.
set -uo pipefail

[ $# -eq 1 ] || { echo "usage: bash benchmarks/first_gpu.sh FOLDER" >&2; exit 2; }
end=$((SECONDS + ${MINUTES:-9} * 60 - 20)) # the rest is for packing
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/results" "$work/logs" "$work/profile"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 JAX_COMPILATION_CACHE_DIR=$work/programs
export XLA_PYTHON_CLIENT_PREALLOCATE=false # torch, and processes that test side by side, want memory too

if [ -n "${TINY:-}" ]; then
    size=64 batches="1" repeats=1 drops="--train 4 --val 2" steps=4 workers=0 kinds="scatter-add"
    tests="tests/maskrcnn_jax/boxes/test_geometry.py"
    network="--set image.size=(64,64) --set batch_size=1 --set backbone.depths=(1,1,1,1)"
else
    size=512 batches="16 64" repeats=10 drops="--train 320 --val 64" steps=100000 workers=8
    kinds="scatter-add roi-align nms"
    tests="tests/maskrcnn_jax/roi tests/maskrcnn_jax/boxes tests/maskrcnn_jax/rpn tests/maskrcnn_jax/image"
    tests="$tests tests/maskrcnn_jax/test_losses.py tests/maskrcnn_jax/test_layers.py"
    network="--set batch_size=16"
fi

note() { echo "$*" | tee -a "$out/summary.txt"; }

# keep: what there is so far, in place of what was there before.
keep() {
    local name
    for name in results profile; do
        local folders=("$name")
        [ "$name" = results ] && folders+=(logs)
        tar -czf "$out/.$name" -C "$work" "${folders[@]}" && mv "$out/.$name" "$out/$name.tar.gz"
    done
}

# part NAME SECONDS COMMAND...: run it for so long at most, or for what is left; its last lines go into the summary.
part() {
    local name=$1 limit=$2 left=$((end - SECONDS)) begun=$SECONDS code
    shift 2
    [ -n "${TINY:-}" ] && limit=$((20 * limit)) # CPUs are slow
    if [ "$left" -lt 15 ]; then
        note "== $name: left out, no time"
        return 1
    fi
    [ "$limit" -gt "$left" ] && limit=$left
    [ "$limit" -lt 1 ] && limit=1
    # As Ctrl-C does, once, so that it says what it has: pytest its failures, a training its checkpoint.
    timeout --foreground --signal=INT --kill-after=30 "$limit" "$@" >"$work/logs/$name.txt" 2>&1
    code=$?
    note "== $name: exit code $code after $((SECONDS - begun)) of $limit seconds"
    tail -n 60 "$work/logs/$name.txt" | tee -a "$out/summary.txt"
    keep
    return "$code"
}

: >"$out/summary.txt"
if [ -n "${WHEELS:-}" ]; then
    part wheels 40 "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "$WHEELS"/*.whl
    export PYTHONPATH=$PWD:$work/site
fi
part machine 60 "$python" - "${TINY:-}" <<'PYTHON' || exit 1
import importlib.util
import sys

needed = "jax flax optax orbax.checkpoint jaxtyping numpy cv2 pycocotools absl filelock grain h5py jinja2 matplotlib PIL"
needed += " psutil yaml rich scipy tensorboardX tifffile tyro pytest xdist hypothesis beartype torch torchvision"
missing = [name for name in needed.split() if importlib.util.find_spec(name.partition(".")[0]) is None]
print("missing packages:", ", ".join(missing) or "none")
import jax

print("python", sys.version.split()[0], "jax", jax.__version__, jax.devices())
if jax.default_backend() != "gpu" and not sys.argv[1]:
    sys.exit("JAX sees no GPU: is it jax[cuda12] or jax[cuda13]? TINY=1 tries this script on a CPU.")
PYTHON
command -v nvidia-smi >/dev/null && part nvidia-smi 20 nvidia-smi

# XLA's own options, and float32 products in full: what is compared is rounding, not speed.
# shellcheck disable=SC2086
part tests 75 env XLA_FLAGS= JAX_DEFAULT_MATMUL_PRECISION=highest \
    "$python" -m pytest -n "$workers" -v -rf --tb=line -p no:cacheprovider $tests

for batch in $batches; do
    part "torchvision-$batch" 170 "$python" -m benchmarks.peer_torchvision --batches "$batch" --size $size \
        --dtype bfloat16 --peers channels-last compiled --repeats $repeats --out "$work/results"
done

# shellcheck disable=SC2086
part operations 60 "$python" -m benchmarks.ops --only $kinds --repeats $repeats --out "$work/results"

# The programs of these two were compiled above.
# shellcheck disable=SC2086
part step 90 "$python" -m benchmarks.step --batches $batches --size $size --dtypes bfloat16 --repeats $repeats \
    --no-breakdown --no-compiling --profile "$work/profile" --out "$work/results"
for batch in $batches; do
    part "profile-$batch" 30 "$python" -m benchmarks.profiling "$work/profile/training-batch-$batch-bfloat16"
done

# From random weights, which the preset is not meant for: so group norm, AdamW, and all layers from the first step. One
# phase, which Ctrl-C ends with a checkpoint: another phase would be compiled anew.
# shellcheck disable=SC2086
part drops 40 "$python" -m crystal render --out "$work/drops" --scenes simple $drops &&
    part training $((end - SECONDS - 80)) "$python" -m crystal train --data "$work/drops" --out "$work/run" \
        --preset paper --init none --learning-rate 3e-4 $network --set compute_dtype=bfloat16 --set warmup=50 \
        --set optimizer=adamw --set backbone.norm=group --set train_norms=true --set validate_every=0 \
        --set phases.0.part=all --set phases.0.steps=$steps --set phases.1.steps=1 --set phases.2.steps=1
[ -f "$work/run/metrics.jsonl" ] && cp "$work/run/metrics.jsonl" "$work/run/config.json" "$work/results"
part mAP 60 "$python" -m crystal evaluate --weights "$work/run" --data "$work/drops" --zoom none \
    --out "$work/results/mAP.json"
keep
note "== done after $SECONDS seconds: $out"
