"""The roofline cost model is that of the cost-model tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "costmodels" / "training"))
