"""What a scheduler's job calls: light to import, so that a launcher without torch can name it."""


def run(job_folder: str) -> None:
    """Carry out the job whose intent lies in `job_folder` (`sweeper.worker.run`)."""
    from sweeper import worker

    worker.run(job_folder)
