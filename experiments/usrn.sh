#!/usr/bin/env bash
# USRN from baseline to result: experiments/usrn.sh torch camvid/1_8 [a.b=c ...] [options]
set -eu
. "$(dirname "$0")/environment.sh"
choose_framework "torch mindspore" "experiments/usrn.sh torch|mindspore DATASET/SPLIT [a.b=c ...] [options]" "$@"
exec "$python" -m experiments.usrn "$@"
