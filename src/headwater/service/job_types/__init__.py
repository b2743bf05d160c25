"""The types of jobs this server has, a file each.

Made and registered in `app.py`; what they do is done by the parts of `service/`. What a job has
done and where it goes on are one transaction, so that an interrupted job does nothing twice.
"""
