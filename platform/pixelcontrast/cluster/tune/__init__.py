"""Run a search on Ray Tune.

A trial starts in ``hooks.Proposals``, which asks ``running.RunningTrials`` what to try, and runs in
``trial.run_trial``. It ends when ``run_trial`` sends its last report, when ``hooks.Judge`` stops it early, or
when its process dies: ``running.RunningTrials`` records which, in the study. By ``stop_request`` an
interrupted driver asks all of them to stop with a checkpoint.
"""
