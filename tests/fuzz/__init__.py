"""Fuzzing of our own parsers: ``make fuzz`` runs it for long, guided by coverage; the test suite, briefly.

targets/      one module a target: ``one_input(data)`` states what must hold for any bytes
regressions/  inputs that once broke a target, by target; the test suite replays them
mutations.py  how inputs are changed without a fuzzing engine, and how JSON is changed with one
engine.py     one target in libFuzzer (atheris), in a process of its own
campaign.py   all targets one after another, and the table
"""
