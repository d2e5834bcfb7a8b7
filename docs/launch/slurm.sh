#!/bin/bash
# Runs a command of ddlm on several nodes of a Slurm cluster, a process for each GPU:
#   mkdir -p runs && sbatch docs/launch/slurm.sh
# To be edited: the values of the next two paragraphs. RUN is the command, of which others are below it.
# The directory that it is started in holds the installation (.venv, with jax[cuda12]: docs/hosts.md)
# and, like what RUN writes, is on a file system that all nodes share.

#SBATCH --job-name=ddlm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=runs/%x-%j.out

RUN=(train --config configs/openwebtext/mdlm.py --workdir runs/owt --set mesh.fsdp=8
    --set data.path=data/owt --set data.tokenizer.path=data/gpt2)
# RUN=(evaluate --workdir runs/owt --split test)
# RUN=(sample --workdir runs/owt --num 64 --prompt "The city" --out runs/owt/samples.jsonl)

# Two minutes before its time is over every process gets SIGTERM, and in training all save after the same
# step. The job then goes back into the queue and continues there, an evaluation from its start; so it
# does, up to 20 times, after all that is no mistake of the user's (code 2).
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append

srun --kill-on-bad-exit=1 .venv/bin/ddlm "${RUN[@]}" --distributed
code=$?
if [ $code != 0 ] && [ $code != 2 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
