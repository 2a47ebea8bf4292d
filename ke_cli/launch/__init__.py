"""Jobs of a sweep in other processes: what travels to a worker, how many workers there are, and how each is kept going.

The launchers themselves are in ``hydra_plugins/ke_run_launchers.py``, where Hydra looks for them; what they need of
joblib, submitit and Ray is imported there, and only when it is used.
"""
