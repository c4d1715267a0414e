"""Copies of models that a description can run: tensors, held objects, a stand-in Trainer."""
