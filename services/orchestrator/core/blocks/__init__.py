"""Owns the block kinds: one module each, one dict."""

from collections.abc import Callable
from typing import Any, Final

from penstock.workflow.definition import Chain, Parallel, RouteBlock
from penstock.workflow.gates import Gate, Sleep
from penstock.workflow.loops import Agent, Plan, Refine
from penstock.workflow.parts import EmbedStep, ModelStep, RunStep, TaskStep, ToolStep, UndoTask, UndoTool
from services.orchestrator.core.blocks import (
    agent,
    chain,
    embed,
    gate,
    model,
    parallel,
    plan,
    refine,
    route,
    run,
    sleep,
    task,
    tool,
)
from services.orchestrator.core.compiler import Compiler, Node

BLOCKS: Final[dict[type, Callable[[Any, Compiler], Node]]] = {
    Chain: chain.compile_chain,
    RouteBlock: route.compile_route,
    Parallel: parallel.compile_parallel,
    Gate: gate.compile_gate,
    Sleep: sleep.compile_sleep,
    Plan: plan.compile_plan,
    Refine: refine.compile_refine,
    Agent: agent.compile_agent,
    ModelStep: model.compile_model,
    EmbedStep: embed.compile_embed,
    ToolStep: tool.compile_tool,
    TaskStep: task.compile_task,
    RunStep: run.compile_run,
    UndoTool: tool.compile_tool,
    UndoTask: task.compile_task,
}
