#!/usr/bin/env bash
# USRN from baseline to result: experiments/usrn.sh torch camvid/1_8 [a.b=c ...] [options]
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
framework="${1:-}"
case "$framework" in
  torch | mindspore) ;;
  *)
    echo "error: framework '$framework': expected experiments/usrn.sh torch|mindspore DATASET/SPLIT [a.b=c ...] [options]" >&2
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
exec "$python" -m experiments.usrn "$@"
