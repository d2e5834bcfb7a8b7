#!/bin/sh
# Writes the Job of a command of ddlm in several pods, a process each with all GPUs of its node:
#   sh docs/launch/kubernetes.sh | kubectl apply -f -
#   kubectl logs -f -l job-name=NAME,batch.kubernetes.io/job-completion-index=0     the log, of the first
#   kubectl delete job/NAME                saves and stops; the next apply continues
# To be edited: the values of the next paragraph. RUN is the command, of which others are below it;
# delete the Job, or change NAME, before you apply another one. IMAGE has the repository and its .venv (with
# jax[cuda12]: docs/hosts.md) in its working directory; VOLUME is a claim with access mode ReadWriteMany,
# seen by the pods as /data.

NAME=ddlm
IMAGE=ddlm:latest
VOLUME=ddlm
PROCESSES=2
GPUS=8
RUN="train --config configs/openwebtext/mdlm.py --workdir /data/runs/owt --set mesh.fsdp=8 \
    --set data.path=/data/owt --set data.tokenizer.path=/data/gpt2"
# RUN="evaluate --workdir /data/runs/owt --split test"
# RUN="sample --workdir /data/runs/owt --num 9 --prompt 'The city' --out /data/runs/owt/samples.jsonl"

# A pod that is told to go (SIGTERM) makes all save after the same step and end. Whatever ends, all start
# again and continue, but for a user's mistake (code 2); so they do where a pod is more than five minutes
# late, for which the others do not wait. Ends are counted for all pods together: each may 100 times.
cat <<END
apiVersion: v1
kind: Service
metadata:
  name: $NAME
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    job-name: $NAME
---
apiVersion: batch/v1
kind: Job
metadata:
  name: $NAME
spec:
  completionMode: Indexed
  completions: $PROCESSES
  parallelism: $PROCESSES
  backoffLimit: $((100 * PROCESSES))
  podFailurePolicy:
    rules:
      - action: FailJob
        onExitCodes:
          containerName: ddlm
          operator: In
          values: [2]
  template:
    spec:
      subdomain: $NAME
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: ddlm
          image: $IMAGE
          command: [sh, -c]
          args:
            - >-
              exec .venv/bin/ddlm $RUN
              --distributed $NAME-0.$NAME:8476 $PROCESSES \$JOB_COMPLETION_INDEX
          resources:
            limits:
              nvidia.com/gpu: $GPUS
          volumeMounts:
            - name: data
              mountPath: /data
            - name: memory
              mountPath: /dev/shm
      volumes:
        - name: data
          persistentVolumeClaim:
            claimName: $VOLUME
        - name: memory
          emptyDir:
            medium: Memory
END
