"""Controls in a real kernel: a message as a notebook's page sends it moves a slider or presses the button."""

import ast
import time
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT / "book" / "chapters").glob("[0-9][0-9]_*.ipynb"))
LONGEST = 240  # seconds


class Kernel:
    """A running kernel, spoken to as a notebook does."""

    def __init__(self, client):
        self.client = client

    def wait(self, sent: str) -> None:
        """Wait until everything that a message started is done."""
        end = time.monotonic() + LONGEST
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=LONGEST)
            if message["parent_header"].get("msg_id") == sent and message["msg_type"] == "status":
                if message["content"]["execution_state"] == "idle":
                    return
        raise TimeoutError("the kernel is still busy")

    def run(self, source: str, wanted: str = "None"):
        """Execute source; returns the value of an expression after it."""
        sent = self.client.execute(source, user_expressions={"wanted": wanted})
        reply = self.client.get_shell_msg(timeout=LONGEST)
        while reply["parent_header"].get("msg_id") != sent:
            reply = self.client.get_shell_msg(timeout=LONGEST)
        self.wait(sent)
        assert reply["content"]["status"] == "ok", reply["content"].get("traceback")
        return ast.literal_eval(reply["content"]["user_expressions"]["wanted"]["data"]["text/plain"])

    def tell(self, widget: str, **data) -> None:
        """Send a widget, named by an expression, what its view in a page would send."""
        model = self.run("", f"{widget}.model_id")
        message = self.client.session.msg("comm_msg", {"comm_id": model, "data": data})
        self.client.shell_channel.send(message)
        self.wait(message["header"]["msg_id"])


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.delenv("BIAS_TUTORIAL_BOOK", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=LONGEST)
    yield Kernel(client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


class Control(NamedTuple):
    """What the live cell of a chapter finds defined, the smaller sizes of its function, and where sliders are moved."""

    before: str
    smaller: dict[str, str]
    moves: tuple[tuple[int, ...], ...]  # positions of all sliders, one after the other


CONTROLS = {
    "01": Control("p_values = [0.5, 0.7, 0.9]", {}, ((4, 2), (0, 0))),
    "02": Control("from bias_tutorial.scenario import preset\nfrom bias_tutorial.studies import chapter_02 as study",
                  {'600, "n_test": 400': '300, "n_test": 100', "(56, 48)": "(28, 24)"}, ((3, 4), (4, 0))),
    "03": Control("from bias_tutorial.studies import chapter_03 as study",
                  {'600, "n_probe": 300': '120, "n_probe": 80', "(56, 48)": "(28, 24)"}, ((3, 4), (4, 2))),
    "04": Control("from bias_tutorial.studies import chapter_04 as study\nfrom bias_tutorial.training import Recipe\n"
                  "settings, rho, mark = {'slices': 2, 'separation': 2.0}, 0.9, ('glioma_mark',)\n"
                  "lnl = {'method': 'learning_not_to_learn', 'select': 'groups'}",
                  {'120, "n_test": 200': '24, "n_test": 60', "(64, 64)": "(32, 32)",
                   "Recipe()": "Recipe(epochs=1, precision='fp32')"}, ((3, 0, 1), (4, 3, 2))),
    "05": Control("from bias_tutorial.studies import chapter_05 as study\n"
                  "from bias_tutorial.clustering import hidden_mode\nsettings = {'shape': [32, 32]}", {},
                  ((0, 0), (0, 4))),
    "06": Control("from bias_tutorial.studies import chapter_06 as study\n"
                  "settings = {'features': 115, 'by': ['race', 'insurance'], 'design': {'read_out': 1.0},\n"
                  "            'recipe': {'epochs': 2, 'precision': 'fp32'}}",
                  {"4000": "3000"}, ((1, 0, 0), (1, 3, 2)))}
# Around the chapter's function, so that what each move asks for can be read.
LISTENING = """
asked, chapters_own = [], try_again
def try_again(**values):
    asked.append(values)
    return chapters_own(**values)
"""


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_control_of_a_chapter_computes_anew_and_equals_python(kernel, path):
    """The chapter's own cell; every slider is moved and the button, if there is one, pressed, as a page does it."""
    control = CONTROLS[path.stem[:2]]
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    (cell,) = (source for source in cells if "explore.live(" in source)
    for old, new in control.smaller.items():
        assert old in cell
        cell = cell.replace(old, new)
    start = cell.index("explore.live(")
    kernel.run(control.before)
    kernel.run(cell[:start] + LISTENING)
    kernel.run(f"widget = {cell[start:]}\nasked.clear()")
    names = kernel.run("", "[child.description for child in widget.children[:-1] if hasattr(child, 'index')]")
    button = "button=True" in cell
    for times, move in enumerate(control.moves, start=1):
        for k, index in enumerate(move):
            kernel.tell(f"widget.children[{k}]", method="update", state={"index": index}, buffer_paths=[])
        if button:
            assert kernel.run("", "len(asked)") == times - 1
            kernel.tell("widget.manual_button", method="custom", content={"event": "click"})
        values = {name: kernel.run("", f"widget.children[{k}].options[{index}]")
                  for k, (name, index) in enumerate(zip(names, move, strict=True))}
        assert kernel.run("", "asked[-1]") == values
        result, again = kernel.run("", f"float(widget.result), float(chapters_own(**{values!r}))")
        assert result == pytest.approx(again, abs=1e-6)


def test_every_chapter_has_a_control_that_is_tried():
    assert [path.stem[:2] for path in CHAPTERS] == sorted(CONTROLS)


def test_a_button_computes_only_when_it_is_pressed(kernel):
    kernel.run("from bias_tutorial import explore\nasked = []\n"
               "widget = explore.live(lambda n: asked.append(n) or 2 * n, button=True, n=[1, 2, 3])")
    kernel.tell("widget.children[0]", method="update", state={"index": 2}, buffer_paths=[])
    assert kernel.run("", "asked") == []
    kernel.tell("widget.manual_button", method="custom", content={"event": "click"})
    assert kernel.run("", "asked") == [3] and kernel.run("", "widget.result") == 6
