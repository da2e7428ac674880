"""What quantisation in training and after it share: a model captured as a graph, where it is quantised, and the
graph of integers that comes of it.
"""
