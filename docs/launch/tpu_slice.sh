#!/bin/sh
# Runs a command of ddlm on a slice of Cloud TPUs, a process for each host:
#   sh docs/launch/tpu_slice.sh create     the slice
#   sh docs/launch/tpu_slice.sh setup      the repository and its installation, on every host
#   sh docs/launch/tpu_slice.sh run        starts the command, which goes on without this machine
#   sh docs/launch/tpu_slice.sh log        ddlm/run.log of the first host, as it grows, until Ctrl-C
#   sh docs/launch/tpu_slice.sh status     whether it runs on each host, and the last lines there
#   sh docs/launch/tpu_slice.sh stop       every process saves after the same step and ends
#   sh docs/launch/tpu_slice.sh delete     the slice
# To be edited: the values of the next paragraph. RUN is the command, of which others are below it. SHARE
# is an NFS export (such as Filestore) for what all hosts share, mounted as /data; a bucket does not do,
# since checkpoints need atomic renames. All hosts have to reach SOURCE.

NAME=ddlm
ZONE=us-west4-a
TYPE=v5litepod-256
IMAGE=v2-alpha-tpuv5-lite
SHARE=10.0.0.2:/share
SOURCE=$(git remote get-url origin)
RUN="train --config configs/scale/mdlm_1b.py --workdir /data/runs/1b \
    --set data.path=/data/owt --set data.tokenizer.path=/data/gpt2"
# RUN="evaluate --workdir /data/runs/1b --split test"
# RUN="sample --workdir /data/runs/1b --num 64 --prompt 'The city' --out /data/runs/1b/samples.jsonl"

tpu() {
    verb=$1
    shift
    gcloud compute tpus tpu-vm "$verb" "$NAME" --zone="$ZONE" "$@"
}

on_all() {
    tpu ssh --worker=all --command="$1"
}

RUNS='{ kill -0 $(cat run.pid); } 2>/dev/null'

case $1 in
create) tpu create --accelerator-type="$TYPE" --version="$IMAGE" ;;
setup)
    on_all "set -e
        sudo apt-get install -y git make nfs-common python3.11 python3.11-venv
        sudo mkdir -p /data
        mountpoint -q /data || sudo mount $SHARE /data
        test -d ddlm || git clone $SOURCE ddlm
        cd ddlm
        make .venv/ready
        version=\$(.venv/bin/python -c 'import jax; print(jax.__version__)')
        .venv/bin/pip install \"jax[tpu]==\$version\""
    ;;
run)
    on_all "cd ddlm || exit
        $RUNS && { echo 'it runs already; stop it before'; exit 2; }
        setsid .venv/bin/ddlm $RUN --distributed >>run.log 2>&1 </dev/null &
        echo \$! >run.pid"
    ;;
log) tpu ssh --worker=0 --command="tail -n 100 -F ddlm/run.log" ;;
status) on_all "cd ddlm && { $RUNS && echo runs || echo 'does not run'; tail -n 3 run.log; }" ;;
stop) on_all "kill \$(cat ddlm/run.pid)" ;;
delete) tpu delete ;;
*)
    sed -n '2,/^$/s/^# //p' "$0"
    exit 2
    ;;
esac
