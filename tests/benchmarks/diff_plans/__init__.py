"""Old plans against new: a grid of requests that reaches whatever the code lists, its answers kept in the repository.

``python -m tests.benchmarks.diff_plans`` (``make diff-plans``) asks everything in ``requests.yaml`` through the
command's own entry function and compares with ``expected.json``; ``--write`` makes that file anew. Whatever moved is
printed, and the run fails; so it does where an operation, a layer kind, a framework … is reached by no request.

Forests are read from the cache. An empty ``$SHARDWRIGHT_CACHE`` compares the fitting too, for minutes more.
"""
