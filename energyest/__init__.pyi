"""The public names, listed once: read by `__init__.py` and by type checkers."""

from . import carbon as carbon
from . import errors as errors
from . import estimators as estimators
from . import exporters as exporters
from . import gpus as gpus
from . import measure as measure
from . import plots as plots
from . import profiling as profiling
from . import readers as readers
from . import report as report
from . import tradeoff as tradeoff
from .errors import EnergyestError as EnergyestError
from .estimate import Estimate as Estimate
from .estimate import NotStableError as NotStableError
from .estimators.compare import compare_estimators as compare_estimators
from .estimators.pre.estimate import estimate_pre as estimate_pre
from .estimators.step.estimate import estimate_step as estimate_step
from .estimators.step.planned_changes import PlannedChange as PlannedChange
from .huggingface.callback import EnergyCallback as EnergyCallback
from .lightning.monitor import EnergyMonitor as EnergyMonitor
from .measure.sensors import detect as detect
from .profiling import describe_workload as describe_workload
from .records.loading import load_trace as load_trace
from .records.trace import EnergyTrace as EnergyTrace
from .tracking.track import track as track

__version__: str
