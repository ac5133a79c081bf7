#!/bin/bash

# Parameters
#SBATCH --array=0-1%2
#SBATCH --cpus-per-task=8
#SBATCH --exclusive
#SBATCH --job-name=quickstart-20260328-120000-0badcafe
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/quickstart/jobs/quickstart-20260328-120000-0badcafe/%A_%a.out
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=600

# setup
export PYTHONPATH=/shared/runs/quickstart/code/0123456789abcdef${PYTHONPATH:+:$PYTHONPATH}
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec python3 -u -m sweeper.supervisor /shared/runs/quickstart/jobs/quickstart-20260328-120000-0badcafe
