"""Our own verifiable tasks: generated prompts in many kinds of work, each with a program that grades any answer.

task.py the records · grading.py and sandbox.py the graders · one file per family of tasks · suite.py splits by seed ·
command.py `python -m benchmarks tasks`.
"""
