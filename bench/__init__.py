"""What the server does on this machine, measured from outside.

`python -m bench` (or `make bench`) starts real servers, drives them over sockets and prints each
figure beside its target. It measures and does not judge: a missed target is no failure. The load
generators share the machine with the server, so they must stay light.
"""
