"""The proof of the proof: the service, broken on purpose, and the checker that must see it.

A sabotage is a small patch of a copy of the service's code. A scene is what a service goes through:
load, links that are cut or stand still, a process that dies. Each sabotage is played in its scene
beside the service as it is, at the same time: there every invariant holds, here one is broken, and
it is known beforehand which.

    python -m tests.faults.sabotage --list      what is broken, and what sees it
    python -m tests.faults.sabotage             play all, or those named by --only
"""
