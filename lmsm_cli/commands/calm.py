"""A console that no text can command: what would move a cursor or set a colour is spelled out."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from lmsm_cli.errors import visible


class CalmConsole(Console):
    """Shows control characters as they are written, as \\x1b, whatever file they came from."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render; rich's own movements of the cursor are segments of another kind."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control or text.isprintable():
                yield segment
            else:
                yield Segment("\n".join(map(visible, text.split("\n"))), style)
