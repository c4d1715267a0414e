"""Scripts that write data: trainings measured on a GPU, and the model fitted to them."""
