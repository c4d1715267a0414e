"""From watts to a trace: sensors, sampler, meter, ledger, recorder; `detect()` finds sensors."""

import lazy_loader

# Loaded on first use: a user's own sensor needs `Device` and `Reading`, but nothing of NVML.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "sensors": ["Detection", "detect"],
        "sensors.base": ["Device", "Reading", "Sensor"],
        "sensors.external.command": ["CommandSensor"],
        "sensors.replay": ["ReplaySensor"],
    },
)
