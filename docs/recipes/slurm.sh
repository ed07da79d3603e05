#!/bin/bash
# Two machines of eight GPUs under Slurm: one task per machine, and torchrun in it.
#   sbatch docs/recipes/slurm.sh
# /shared is a file system that all machines see. Submitted again, the run goes on.
#SBATCH --job-name ecar
#SBATCH --nodes 2
#SBATCH --ntasks-per-node 1
#SBATCH --gpus-per-node 8
#SBATCH --time 12:00:00
#SBATCH --signal TERM@120
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 --max-restarts 3 \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" \
  -m ecar_lab.cli train model --preset imagenet256-b --batch-size 16 \
  --output /shared/runs/imagenet256 --data /shared/data
