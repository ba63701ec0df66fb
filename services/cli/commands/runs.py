"""Owns `penstock runs`: list, show, cancel, redrive."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from services.cli import output
from services.cli.door import Door, run_path
from services.cli.settings import AsJson, Data, Tenant
from services.cli.watching import watch

app = typer.Typer(no_args_is_help=True, help="Runs: list, show, cancel, redrive.")

RunId = Annotated[str, typer.Argument(help="The run's id.")]
Reason = Annotated[str, typer.Option(help="Why, for those who read it later.")]


@app.command("list", epilog="Example: penstock runs list --status failed --label team=legal")
def list_runs(
    *,
    tenant: Tenant = "default",
    workflow: Annotated[str | None, typer.Option(help="Of this workflow only.")] = None,
    status: Annotated[str | None, typer.Option(help="running, completed, failed or cancelled.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="KEY=VALUE; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="The page after this one (`next` of --json).")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List a tenant's runs, newest first."""
    page = Door(data).get(
        "/v1/runs", tenant=tenant, workflow=workflow, status=status, label=label, limit=limit, cursor=cursor
    )
    if as_json:
        output.as_json(page)
        return
    output.table(
        ("run", "workflow", "status", "started", "calls", "tokens", "cost"),
        [
            (
                run["run_id"],
                f"{run['workflow']}@{run['version']}",
                run["status"] + (f" ({run['error']['code']})" if run.get("error") else ""),
                output.short_time(run["started_at"]),
                run["usage"]["model_calls"],
                run["usage"]["input_tokens"] + run["usage"]["output_tokens"],
                f"{run['usage']['cost']['amount']} {run['usage']['cost']['currency']}",
            )
            for run in page["runs"]
        ],
        numbers=("calls", "tokens", "cost"),
        empty="No runs. Start one: penstock run NAME --input '{}'",
    )


@app.command(epilog="Example: penstock runs show order-4711")
def show(run_id: RunId, *, tenant: Tenant = "default", data: Data = None, as_json: AsJson = False) -> None:
    """Show a run with its steps and output."""
    run = Door(data).get(run_path(run_id), tenant=tenant)
    if as_json:
        output.as_json(run)
        return
    version = f"@{run['version']}" if run.get("version") else ""
    simulated = "  [bold](simulated)[/]" if run["simulated"] else ""
    undoing = "  [bold](undoing)[/]" if run.get("undoing") else ""
    head = f"{output.shown(run['run_id'])}  {output.shown(run['workflow'] + version)}  {output.status(run['status'])}"
    output.console.print(head + undoing + simulated, highlight=False)
    for neared in run.get("caps_neared", []):
        output.console.print(output.shown(_neared(neared)), style="yellow", highlight=False)
    output.table(
        ("step", "kind", "phase", "attempt", "tokens", "what came out"),
        [
            (
                step["step"],
                step["kind"],
                step["phase"],
                step["attempt"],
                sum(sum(attempt["tokens"].values()) for attempt in step["attempts"]),
                step["error"]["message"] if step.get("error") else step.get("preview"),
            )
            for step in run["steps"]
        ],
        numbers=("attempt", "tokens"),
        empty="No steps yet.",
    )
    if run.get("error"):
        output.console.print(output.shown(f"{run['error']['code']}: {run['error']['message']}"), style="red")
    if run.get("output") is not None:
        output.console.print_json(data=run["output"])


def _neared(neared: Mapping[str, Any]) -> str:
    """One cap that is nearly used up, as a line."""
    whose = f"caps of {neared['block']}" if neared.get("block") else "budget"
    unit = f" {neared['currency']}" if neared.get("currency") else ""
    return f"{whose}: {neared['used']} of {neared['limit']}{unit} {neared['cap'].replace('_', ' ')} are used"


@app.command(epilog="Example: penstock runs cancel order-4711 --reason 'wrong input'")
def cancel(
    run_id: RunId, *, reason: Reason = "", tenant: Tenant = "default", data: Data = None, as_json: AsJson = False
) -> None:
    """Cancel a run; one that has ended stays as it is."""
    accepted = Door(data).post(f"{run_path(run_id)}/cancel", {"reason": reason}, tenant=tenant)
    output.as_json(accepted) if as_json else output.console.print("Asked to cancel.")


@app.command(epilog="Example: penstock runs redrive order-4711 --watch")
def redrive(
    run_id: RunId,
    *,
    watching: Annotated[bool, typer.Option("--watch", "-w", help="Show progress, then the output.")] = False,
    reason: Reason = "",
    tenant: Tenant = "default",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Resume a failed run at its failed steps, with every result that was paid for."""
    door = Door(data)
    accepted = door.post(f"{run_path(run_id)}/redrive", {"reason": reason}, tenant=tenant)
    if watching:
        watch(door, run_id, tenant, as_json=as_json)
    elif as_json:
        output.as_json(accepted)
    else:
        output.console.print("Asked to redrive.")
