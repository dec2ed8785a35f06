"""Controls in a real kernel: a message as a notebook's page sends it moves a slider or presses the button."""

import ast
import time
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel

from bias_tutorial.studies.chapter_01 import latent_observer

ROOT = Path(__file__).resolve().parents[1]
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


def test_a_slider_of_chapter_1_computes_anew_and_equals_python(kernel):
    notebook = nbformat.read(ROOT / "book" / "chapters" / "01_simulate_bias.ipynb", as_version=4)
    cell = next(c.source for c in notebook.cells if c.cell_type == "code" and "explore.live(" in c.source)
    p_values = [0.5, 0.7, 0.9]
    kernel.run(f"p_values = {p_values}")
    kernel.run(cell)
    kernel.run("widget = _")
    for index in (2, 0):
        kernel.tell("widget.children[1]", method="update", state={"index": index}, buffer_paths=[])
        settings = {"p": p_values[index], "n_train": 2000, "n_test": 2000}
        seed = kernel.run("", "widget.children[0].value")
        assert kernel.run("", "float(widget.result)") == pytest.approx(latent_observer(settings, seed)["tpr_gap"])


def test_a_button_computes_only_when_it_is_pressed(kernel):
    kernel.run("from bias_tutorial import explore\nasked = []\n"
               "widget = explore.live(lambda n: asked.append(n) or 2 * n, button=True, n=[1, 2, 3])")
    kernel.tell("widget.children[0]", method="update", state={"index": 2}, buffer_paths=[])
    assert kernel.run("", "asked") == []
    kernel.tell("widget.manual_button", method="custom", content={"event": "click"})
    assert kernel.run("", "asked") == [3] and kernel.run("", "widget.result") == 6
