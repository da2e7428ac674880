"""Instructions inside other people's trainers: a callback each for Lightning and for Hugging Face's Trainer.

A trainer has some of the places where instructions work, not all. What an instruction needs is found out by
attaching it to a stand-in of the training loop before the training starts; what the trainer cannot meet is
refused there, with the reason.
"""
