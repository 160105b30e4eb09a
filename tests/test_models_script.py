"""asv_benchmarks/models.py on one small model: what it compares, and that it passes over what is not installed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import normzoo as nz

torch = pytest.importorskip("torch")
PATH = Path(__file__).parent.parent / "asv_benchmarks" / "models.py"


@pytest.fixture
def models(monkeypatch):
    spec = importlib.util.spec_from_file_location("models_script", PATH)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "models_script", module)
    spec.loader.exec_module(module)
    return module


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())

    def forward(self, x):
        return {"found": self.net(x), "count": torch.tensor(3)}


def test_it_measures_what_is_installed_and_names_what_is_not(models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "FAMILIES", {
        "small": models.Family("torch", Small, lambda batch: {"x": torch.randn(batch, 3, 6, 6)}),
        "missing": models._made("no_such_library", "no_such_library.Model", None),
    })  # fmt: skip
    with nz.use("reference"):
        found = models.main(["--rounds", "3", "--kinds", "--json", str(tmp_path / "found.json")])
    printed = capsys.readouterr().out
    assert "('BatchNorm2d', ((8, 4, 4, 4), 'float32', (64, 16, 4, 1)))" in printed
    assert "taken: 1 BatchNorm2d" in printed and "passed over: no_such_library" in printed
    assert list(found) == ["small"] and list(found["small"]) == ["b1", "b8", "train"]
    for cells in found["small"].values():
        assert {"eager", "converted"} <= cells.keys()
        for cell in cells.values():
            assert 0 < cell["error"] < 1e-5
            assert cell["norms"]["ms"] < 10 * cell["ms"]
            for part in (cell, cell["norms"]):
                low, mid, high = part["quartiles"]
                assert part["ms"] > 0 and low <= mid <= high
        assert cells["eager"]["quartiles"] == [1, 1, 1]
    record = json.loads((tmp_path / "found.json").read_text())
    assert record["models"] == found and record["about"].keys() >= {"machine", "date", "commit", "versions", "command"}


def test_an_error_would_be_seen(models):
    model, inputs = Small().eval(), {"x": torch.randn(2, 3, 6, 6)}
    wrong = Small().eval()
    found = models.accurate(models.infer, model, {"wrong": (wrong, models.nullcontext)}, inputs)
    assert found["wrong"] > 0.1


def test_there_are_sixteen_families_and_unknown_names_are_refused(models, capsys):
    assert len(models.FAMILIES) >= 16
    with pytest.raises(SystemExit):
        models.main(["--only", "no_such_model"])
    assert "got ['no_such_model']" in capsys.readouterr().err


def test_the_norms_alone_are_called_as_in_the_model(models):
    """With the values and strides of the model, one after the other, each with its own dy."""

    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.LayerNorm(4)

        def forward(self, x):
            return self.norm(self.norm(x.mT) * 3)

    model, x = Two(), torch.randn(2, 4, 4)
    norms = models.model_norms
    calls = norms.calls_of(model, ["norm"], lambda model, x: model(x), x)
    assert [call.inputs[0].stride() for call in calls] == [(16, 1, 4), (16, 4, 1)]
    assert torch.equal(calls[0].inputs[0], x.mT) and calls[0].inputs[0].data_ptr() != x.data_ptr()
    assert calls[1].inputs[0].requires_grad and not calls[0].inputs[0].requires_grad
    assert torch.equal(calls[1].inputs[0], 3 * model.norm(x.mT))
    seen = []
    model.norm.register_forward_hook(lambda module, given, y: seen.append(given[0]))
    for training in (False, True):
        seen.clear()
        norms.again(model, calls, training)(2)
        assert [a is b.inputs[0] for a, b in zip(seen, 2 * calls, strict=True)] == [True] * 4
    assert norms.outermost(["a", "a.b", "ab", "c.d"]) == ["a", "ab", "c.d"]
    assert norms.outermost(["", "a"]) == [""]
