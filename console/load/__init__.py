"""`linli load`: a mix of requests and devices' messages at a running installation, on a fixed schedule, and how long each took.

It knows an installation by its addresses and its protocols only. Who lives there and what happens for their sake is the simulator's affair.
"""
