#!/usr/bin/env bash
# Evaluate a checkpoint: experiments/eval.sh onnx shapes/12/u2pl --checkpoint model.onnx
set -eu
. "$(dirname "$0")/environment.sh"
usage="experiments/eval.sh torch|mindspore|onnx DATASET/SPLIT/METHOD --checkpoint FILE [options]"
choose_framework "torch mindspore onnx" "$usage" "$@"
shift
exec "$python" -m "${framework}_impl.eval" "$@"
