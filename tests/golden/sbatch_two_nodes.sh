#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-0%1
#SBATCH --constraint='h100&ib'
#SBATCH --cpus-per-task=12
#SBATCH --dependency=afterok:17:18
#SBATCH --exclude='n[1-3],n7'
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --job-name=quickstart-20260328-120000-0badcafe
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mail-type=FAIL
#SBATCH --mem=983040M
#SBATCH --nice=10
#SBATCH --no-kill
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/quickstart/jobs/quickstart-20260328-120000-0badcafe/%A_%a.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=august
#SBATCH --signal=B:USR2@300
#SBATCH --time=2880

# setup
module load cuda/12.8
ulimit -c 0
export PYTHONPATH=/shared/runs/quickstart/code/0123456789abcdef${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export PYTHONSAFEPATH=1
export HF_HOME='/shared/hugging face'
export NCCL_SOCKET_IFNAME=ib0

# command
export SUBMITIT_EXECUTOR=slurm
exec /opt/env/bin/python -u -m sweeper.supervisor /shared/runs/quickstart/jobs/quickstart-20260328-120000-0badcafe
