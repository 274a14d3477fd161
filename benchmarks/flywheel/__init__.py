"""One turn of the flywheel on a running stack: serve, label, retrain, judge, promote, serve again.

command.py what is asked for · turn.py the steps in order · operator.py the commands an operator would type ·
figures.py before and after with intervals · plot.py
"""
