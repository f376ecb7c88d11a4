"""The path of the induction transformer's logits over training, in the plane in which they move most."""

import sys
from pathlib import Path

import torch
import xarray as xr

from devinterp_structure import essential_dynamics, plots

sys.path.insert(0, str(Path(__file__).parent))
from induction import LAST_STEP, load, texts

checkpoints, fixed = list(range(0, LAST_STEP + 1, 5)), texts(32, seed=7)
logits = torch.stack([load(checkpoint, seed=0)(fixed).detach() for checkpoint in checkpoints])
logits = logits - logits.mean(-1, keepdim=True)  # what softmax does not see
outputs = xr.DataArray(logits.numpy(), {"checkpoint": checkpoints}, ("checkpoint", "text", "token", "vocabulary"))

result = essential_dynamics(outputs, num_components=3, smoothing=2.0)
plane = result.sel(plane="1,2")
vertices = plane["checkpoint"][plane["is_vertex"]]
sharpest = abs(plane["curvature"]).sel(checkpoint=slice(60, 150)).idxmax("checkpoint")
print("vertices:", *vertices.values, "| sharpest turn between 60 and 150:", int(sharpest))
print("share of the variance:", result["explained_variance_ratio"].round(3).values.tolist())
plots.essential_dynamics(result, plane="1,2").savefig("essential_dynamics.png")
