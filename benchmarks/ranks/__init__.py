"""Trainings of several processes, for `endurance.gpu_ranks` and `collect.many_gpus`."""
