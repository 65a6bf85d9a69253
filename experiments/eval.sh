#!/usr/bin/env bash
# Evaluate a checkpoint: experiments/eval.sh onnx shapes/12/u2pl --checkpoint model.onnx
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
framework="${1:-}"
case "$framework" in
  torch | mindspore | onnx) shift ;;
  *)
    echo "error: framework '$framework': expected experiments/eval.sh torch|mindspore|onnx DATASET/SPLIT/METHOD --checkpoint FILE [options]" >&2
    exit 2
    ;;
esac
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
"$python" -c 'import cv2, numpy, yaml' >/dev/null 2>&1 || {
  echo "error: $python lacks this project's packages: run make demo once, or pip install -r requirements/$framework.txt" >&2
  exit 2
}
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m "${framework}_impl.eval" "$@"
