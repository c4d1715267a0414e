"""Watts to trace: sensors, sampler, meter, ledger, recorder; `detect()` finds the sensors."""

import lazy_loader

# On first use: a user's sensor needs `Device` and `Reading`, and none of what reads NVML.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "sensors": ["Detection", "detect"],
        "sensors.base": ["Device", "Reading", "Sensor"],
        "sensors.replay": ["ReplaySensor"],
    },
)
