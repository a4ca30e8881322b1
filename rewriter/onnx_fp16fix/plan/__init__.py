"""One mixed-integer program decides for every tensor its power-of-two scale and for every node its precision."""

from onnx_fp16fix.plan.known.risk import Risk
from onnx_fp16fix.plan.plan import Place, Plan, Slot
from onnx_fp16fix.plan.planner import Draft, draft_plan, make_plan
from onnx_fp16fix.plan.prices import Prices

__all__ = ["Draft", "Place", "Plan", "Prices", "Risk", "Slot", "draft_plan", "make_plan"]
