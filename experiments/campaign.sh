#!/usr/bin/env bash
# Run what a campaign lacks and write its page: experiments/campaign.sh results/shapes.yaml --jobs 2
set -eu
root="$(cd "$(dirname "$0")/.." && pwd)"
python="$root/.venv/bin/python"
[ -x "$python" ] || python=python3
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m experiments.campaign "$@"
