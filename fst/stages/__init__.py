"""The stages of dvc.yaml: prepare -> validate -> train -> evaluate -> bundle for each domain of params.yaml, and `base`
before the first. A stage is a function in the module of its name.

A stage reads and writes the places of places.py and nothing else. Its outputs hold no time, no path and no run id: the
same inputs give the same bytes whoever runs the stage.
"""
