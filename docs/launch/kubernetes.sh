#!/bin/sh
# Writes the Job that trains in several pods, a process each with all GPUs of its node:
#   sh docs/launch/kubernetes.sh | kubectl apply -f -
#   kubectl logs -f -l job-name=NAME,batch.kubernetes.io/job-completion-index=0     the log, of the first
#   kubectl delete job/NAME                saves and stops; the next apply continues
# To be edited: the values of the next paragraph, in plain words. IMAGE has the repository and its .venv
# (with jax[cuda12]: docs/hosts.md) in its working directory; VOLUME is a claim with access mode
# ReadWriteMany, seen by the pods as /data.

NAME=ddlm
IMAGE=ddlm:latest
VOLUME=ddlm
PROCESSES=2
GPUS=8
CONFIG=configs/openwebtext/mdlm.py
WORKDIR=/data/runs/owt
SETTINGS="--set data.path=/data/owt --set data.tokenizer.path=/data/gpt2 --set mesh.fsdp=8"

# A pod that is told to go (SIGTERM) makes all save after the same step and end; whatever ends, but for a
# user's mistake (code 2), all start again and continue.
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
  backoffLimit: 100
  podFailurePolicy:
    rules:
      - action: FailJob
        onExitCodes:
          containerName: train
          operator: In
          values: [2]
  template:
    spec:
      subdomain: $NAME
      restartPolicy: Never
      terminationGracePeriodSeconds: 120
      containers:
        - name: train
          image: $IMAGE
          command: [sh, -c]
          args:
            - exec .venv/bin/ddlm train --config $CONFIG --workdir $WORKDIR $SETTINGS
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
