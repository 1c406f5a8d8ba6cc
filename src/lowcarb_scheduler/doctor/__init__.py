"""What would spoil a run, found before it starts.

Each module looks at one thing and returns checks; :func:`~lowcarb_scheduler.doctor.run.examine` puts
them in order.
"""
