#!/usr/bin/env bash
# Run what a campaign lacks and write its page: experiments/campaign.sh results/shapes.yaml --jobs 2
set -eu
. "$(dirname "$0")/environment.sh"
exec "$python" -m experiments.campaign "$@"
