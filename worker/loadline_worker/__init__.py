"""The Python end of a replica: loads one MLflow model and answers requests
that come as frames on an inherited Unix socket.

Standard library only, Python 3.8 and later. It runs inside the model's own
environment and leaves every judgement about bodies to the MLflow found there.
"""
