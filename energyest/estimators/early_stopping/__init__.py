"""When an `EarlyStopping` is likely to end a training, and the energy until then."""
