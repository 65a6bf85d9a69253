#!/usr/bin/env bash
# Train an experiment: experiments/train.sh torch shapes/12/u2pl trainer.epochs=5
set -eu
. "$(dirname "$0")/environment.sh"
usage="experiments/train.sh torch|mindspore DATASET/SPLIT/METHOD [a.b=c ...] [options]"
choose_framework "torch mindspore" "$usage" "$@"
shift
exec "$python" -m "${framework}_impl.train" "$@"
