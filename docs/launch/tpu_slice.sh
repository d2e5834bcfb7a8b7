#!/bin/sh
# Trains on a slice of Cloud TPUs, a process for each host:
#   sh docs/launch/tpu_slice.sh create     the slice
#   sh docs/launch/tpu_slice.sh setup      the repository and its installation, on every host
#   sh docs/launch/tpu_slice.sh train      trains, or continues, and shows the log
#   sh docs/launch/tpu_slice.sh stop       every process saves after the same step and ends
#   sh docs/launch/tpu_slice.sh delete     the slice
# To be edited: the values of the next paragraph. SHARE is an NFS export (such as Filestore) for what all
# hosts share, mounted as /data; a bucket does not do, since checkpoints need atomic renames. All hosts
# have to reach SOURCE.

NAME=ddlm
ZONE=us-west4-a
TYPE=v5litepod-256
IMAGE=v2-alpha-tpuv5-lite
SHARE=10.0.0.2:/share
SOURCE=$(git remote get-url origin)
CONFIG=configs/scale/mdlm_1b.py
WORKDIR=/data/runs/1b
SETTINGS="--set data.path=/data/owt --set data.tokenizer.path=/data/gpt2"

tpu() {
    verb=$1
    shift
    gcloud compute tpus tpu-vm "$verb" "$NAME" --zone="$ZONE" "$@"
}

on_all() {
    tpu ssh --worker=all --command="$1"
}

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
train)
    on_all "cd ddlm && exec .venv/bin/ddlm train --config $CONFIG --workdir $WORKDIR $SETTINGS --distributed"
    ;;
stop) on_all "pkill -TERM -f '[d]dlm train'" ;;
delete) tpu delete ;;
*)
    sed -n '2,/^$/s/^# //p' "$0"
    exit 2
    ;;
esac
