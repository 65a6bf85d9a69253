#!/usr/bin/env bash
# Train an experiment: experiments/train.sh torch shapes/12/u2pl trainer.epochs=5
# In several processes, one per GPU: experiments/train.sh torch voc/366/u2pl --processes 4 (docs/scale.md)
set -eu
. "$(dirname "$0")/environment.sh"
usage="experiments/train.sh torch|mindspore DATASET/SPLIT/METHOD [a.b=c ...] [options] [--processes P]"
choose_framework "torch mindspore" "$usage" "$@"
shift
case " $* " in
  *" --processes"*) exec "$python" -m experiments.launch "$framework" "$@" ;;
esac
exec "$python" -m "${framework}_impl.train" "$@"
