"""A quiz on a page that is no notebook: ``:::{quiz} course_1`` shows ``stored/quizzes/course_1.json``.

It is the same output as in a chapter, so the page needs neither kernel nor network.
"""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import Directive


class QuizDirective(Directive):
    """Show the questions of a stored quiz; a quiz that is not there or not good stops the build."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from bias_tutorial import quiz

        try:
            shown = quiz.show(self.arguments[0])
        except ValueError as error:
            raise self.error(str(error)) from None
        return [nodes.raw("", f'<div class="cell_output">{shown._repr_html_()}</div>', format="html")]


def setup(app) -> dict:
    """Register the directive."""
    app.add_directive("quiz", QuizDirective)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
