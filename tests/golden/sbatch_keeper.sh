#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --cpus-per-task=1
#SBATCH --job-name=quickstart-keeper
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/runs/quickstart/jobs/.keeper/%j.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=1440

# setup
module load python
export PYTHONPATH=/shared/runs/quickstart/code/0123456789abcdef${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec python3 -u -m sweeper.keeper /shared/runs/quickstart
