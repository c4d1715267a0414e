"""AMD's GPUs through AMD SMI: its Python module `amdsmi`, the GPUs that ROCm shows, the sensor."""
