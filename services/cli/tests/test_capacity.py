"""`penstock capacity`: sizing where nothing runs, and the live table."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli.__main__ import app_for
from services.cli.failures import EXIT_FAILED, EXIT_USAGE, CommandError

LOAD = ["--model", "llama-3.1-8b", "--gpu", "h200", "--prompt", "2000", "--output", "300", "--rate", "50"]


def said(*arguments: str) -> str:
    """What the command prints."""
    result = CliRunner().invoke(app_for(["capacity"]), ["capacity", *arguments])
    if isinstance(result.exception, CommandError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_load_is_sized_with_its_assumptions_where_nothing_runs() -> None:
    person, machine = said(*LOAD), json.loads(said(*LOAD, "--json"))

    assert "needed        8 engines, 8 h200-sxm, 65% used" in person
    assert "USD for 1,000 requests" in person
    assert "- a step reaches 50% of the peak arithmetic and 80% of the bandwidth (NVIDIA H200 data sheet" in person
    assert (machine["engines"], machine["accelerators"]) == (8, 8)
    assert machine["at_best"]["requests_per_second"] > machine["at_load"]["requests_per_second"] == 6.25
    assert machine["cost_per_thousand_requests"] == {"amount": "0.115556", "currency": "USD"}
    assert len(machine["assumptions"]) >= 7


def test_smaller_weights_and_known_numbers_of_accelerators_are_said() -> None:
    halved = json.loads(said(*LOAD, "--dtype", "fp8", "--kv-dtype", "fp8", "--json"))
    given = json.loads(said(*LOAD, "--gpus", "16", "--json"))

    assert halved["engines"] < 8
    assert halved["kv_bytes_per_token"] == 64 * 1024
    assert (given["engines"], given["utilisation"]) == (16, pytest.approx(0.326, abs=0.01))


def test_a_model_that_is_not_known_is_sized_by_its_shape_or_its_config(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "hidden_size": 576,
                "intermediate_size": 1536,
                "num_attention_heads": 9,
                "num_hidden_layers": 30,
                "num_key_value_heads": 3,
                "vocab_size": 49152,
                "tie_word_embeddings": True,
            }
        )
    )

    by_config = json.loads(said("--config", str(config), "--json"))
    shape = ["--parameters", "0.1345", "--layers", "30", "--kv-heads", "3", "--head-dim", "64"]
    by_shape = json.loads(said(*shape, "--json"))
    by_name = json.loads(said("--model", "smollm2-135m", "--json"))

    assert by_config["weights_gib"] == by_shape["weights_gib"] == by_name["weights_gib"] == 0.3
    assert by_config["kv_bytes_per_token"] == by_shape["kv_bytes_per_token"] == by_name["kv_bytes_per_token"] == 23040


def test_without_a_price_all_but_the_cost_is_said() -> None:
    assert "cost          not known: the price list" in said("--model", "llama-3.1-8b", "--gpu", "mi300x")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--model", "lama-3.1-8b"], EXIT_USAGE, "did you mean llama-3.1-8b"),
        (["--model", "llama-3.1-8b", "--gpu", "h300"], EXIT_USAGE, "did you mean h200"),
        (["--model", "llama-3.3-70b", "--gpu", "h100"], EXIT_FAILED, "try --tensor-parallel 2"),
        (["--parameters", "7"], EXIT_USAGE, "a shape lacks --layers, --kv-heads, --head-dim"),
        (["--config", "nothing.json"], EXIT_USAGE, "nothing.json: "),
        (["--model", "llama-3.1-8b", "--prices", "nothing.yaml"], EXIT_USAGE, "no price list in nothing.yaml"),
    ],
)
def test_what_cannot_be_sized_says_why(arguments: list[str], code: int, says: str) -> None:
    with pytest.raises(CommandError) as error:
        said(*arguments)

    assert (error.value.code, says in str(error.value)) == (code, True)


def test_the_live_table_shows_what_engines_report(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a gateway that has heard of two engines
    line: dict[str, Any] = {
        "engine": "i-1/vllm",
        "pool": "small",
        "models": ["first"],
        "simulated": False,
        "health": "up",
        "requests_in_flight": 48,
        "requests_best": 64,
        "requests_waiting": 3,
        "kv_tokens_max": 1000,
        "kv_tokens_free": 250,
        "tokens_per_second": 5100.4,
        "tokens_per_second_best": 6400.0,
    }
    quiet = line | {"engine": "i-2/simulated", "simulated": True, "health": "away", "tokens_per_second_best": None}
    quiet |= {"kv_tokens_max": None, "kv_tokens_free": None, "requests_best": None}
    asked: list[str] = []

    class Door:
        def __init__(self, data: Path | None) -> None:
            del data

        def get(self, path: str, **query: Any) -> Any:
            asked.append(path)
            return {"engines": [line, quiet] if not query else []}

    monkeypatch.setattr("services.cli.commands.capacity.Door", Door)

    person, machine = said(), json.loads(said("--json"))

    assert asked == ["/v1/capacity"] * 2
    assert [each["engine"] for each in machine["engines"]] == ["i-1/vllm", "i-2/simulated"]
    assert "i-1/vllm" in person
    assert "25%" in person
    assert "simulated" in person
