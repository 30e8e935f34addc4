"""`jsspy top` on a terminal."""

from __future__ import annotations

import asyncio
import os
import re
import time
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Key, Resize
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static

from jsspy.cli.live_maps import OriginalNames
from jsspy.cli.live_text import (
    WIDTHS,
    Update,
    describe_account,
    describe_loop,
    describe_view,
    describe_vm,
    describe_who,
    format_numbers,
    format_time,
    label,
)
from jsspy.cli.outputs import default_file_name
from jsspy.cli.pipe import Receiver
from jsspy.errors import JsspyError
from jsspy.exporters.file import FileExporter
from jsspy.formats.native import Native
from jsspy.model.live import Column, Edge, LiveTable, Row, View
from jsspy.recorder import End

_MAX_ROWS = 200
_MIN_LABEL = 12
_EDGE_WIDTHS = (7, 9, 8)
_COLUMNS = tuple(Column)

_HELP = """\
Columns: shares are of one CPU in the last seconds, times since the start
  1 %Own      the function itself    2 %Total     and what it calls
  3 OwnTime   since the start        4 TotalTime  since the start
  5 %GC       garbage was collected  6 Name       again: the other way round
Rows
  f functions  l lines  i files  p packages  t threads
  j JavaScript only: what it calls counts as its own
Look closer
  Enter          callers and callees; of a thread: only this one
  Esc            back; then: no filter, all threads
  /              filter by a regular expression, found in name or place
Pictures
  Space freeze   r reset, begin again   s save a recording (.jsspy)
Mouse
  a heading sorts, a row clicked twice looks closer, the keys below work

q or Ctrl-C quits. Any key closes this."""


class HelpScreen(ModalScreen[None]):
    """What the keys do."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen Static { width: auto; height: auto; border: round $primary; background: $surface; }
    """

    def compose(self) -> ComposeResult:
        """See `Screen.compose`."""
        yield Static(_HELP, markup=False)

    def on_key(self, event: Key) -> None:
        """Close on any key."""
        event.stop()
        self.dismiss()

    def on_click(self) -> None:
        """Close on a click, too."""
        self.dismiss()


class TopApp(App[None]):
    """The screen: who, state, account, what the rows are; rows; keys."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; }
    #who { text-style: bold; }
    .line { height: 1; width: 100%; text-wrap: nowrap; text-overflow: ellipsis; }
    #view { color: $accent; }
    DataTable { height: 1fr; scrollbar-size-horizontal: 0; }
    #filter { height: 1; border: none; padding: 0; }
    #filter.wrong { background: $error; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("question_mark", "help", "help", key_display="?"),
        # Keys go to what has the focus when they come: before the rest of `/abc`, pasted or typed
        # fast, is given out, the focus must have changed.
        Binding("slash", "filter", "filter", key_display="/", priority=True),
        Binding("f", "view('function')", show=False),
        Binding("l,L", "view('line')", "line"),
        Binding("i", "view('file')", show=False),
        Binding("p,P", "view('package')", "package"),
        Binding("t,T", "view('thread')", "thread"),
        Binding("j", "only_js", "js"),
        Binding("space", "freeze", "freeze", key_display="␣"),
        Binding("r,R", "reset", show=False),
        Binding("s", "save", "save"),
        Binding("escape,backspace", "leave", show=False),
        *(
            Binding(str(number), f"sort({number - 1})", show=False)
            for number in range(1, len(_COLUMNS) + 1)
        ),
    ]

    def __init__(
        self,
        receiver: Receiver,
        originals: OriginalNames,
        table: LiveTable,
        rate_hz: int,
        delay_s: float,
        file_stem: str,
    ) -> None:
        """Prepare to show what comes.

        Args:
            receiver: Of `Update`s.
            originals: What was compiled from what.
            table: What is shown, still empty.
            rate_hz: Shown.
            delay_s: Time between two pictures.
            file_stem: Name and pid of the target, for recordings that are saved.
        """
        super().__init__()
        self.table = table
        self.sort = Column.OWN_SHARE
        self.ascending = False
        self.pattern: re.Pattern[str] | None = None
        self.is_frozen = False
        self.path: list[int] = []
        """Rows that one looks closer at, the latest last."""
        self.shown: list[int] = []
        """Keys of the rows on the screen, from the top."""
        self._receiver = receiver
        self._originals = originals
        self._rate_hz = rate_hz
        self._delay_s = delay_s
        self._file_stem = file_stem
        self._waiting: list[Update] = []
        self._last: Update | None = None
        self._label_width = _MIN_LABEL
        # Kept here, because a query looks at the screen that is on top.
        self._lines = {
            line: Static("", id=line, classes="line", markup=False)
            for line in ("who", "vm", "loop", "account", "view")
        }
        self.grid = DataTable[Text](cursor_type="row", cell_padding=0, zebra_stripes=True)
        """The rows."""
        self._box = Input(placeholder="regular expression", id="filter")
        self._box.display = False

    def compose(self) -> ComposeResult:
        """See `App.compose`."""
        yield from self._lines.values()
        yield self.grid
        yield self._box
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Begin to listen."""
        self.grid.focus()
        self._make_columns()
        asyncio.get_running_loop().add_reader(self._receiver.descriptor, self._receive)
        self.set_interval(self._delay_s, self.tick)

    def _receive(self) -> None:
        first = self._last is None
        self._waiting += self._receiver.receive()
        if self._receiver.is_closed:
            asyncio.get_running_loop().remove_reader(self._receiver.descriptor)
            self._take()
            # A process that ended by itself leaves its last picture until it has been seen.
            if self._last is None or self._last.end is not End.TARGET_ENDED:
                self.exit()
            self.show_all()
        elif first:
            self.tick()

    @property
    def latest_ns(self) -> int:
        """The time of the latest update that was received, shown or not."""
        updates = self._waiting or ([self._last] if self._last is not None else [])
        return updates[-1].account.time_ns if updates else 0

    def _take(self) -> None:
        for update in self._waiting:
            self.table.add(self._originals.map(update), update.account)
            self._last = update
        self._waiting.clear()

    def tick(self) -> None:
        """Draw a new picture, unless frozen."""
        if not self.is_frozen:
            self._take()
            self.show_all()

    # Drawing

    def on_resize(self, event: Resize) -> None:
        """Give the name what the numbers leave."""
        del event
        if self.grid.is_mounted:
            self._make_columns()
            self.show_all()

    def _make_columns(self) -> None:
        grid = self.grid
        widths = list(_EDGE_WIDTHS) if self.path else list(WIDTHS.values())
        # A blank in front of each column, and the scroll bar.
        self._label_width = max(self.size.width - sum(widths) - len(widths) - 3, _MIN_LABEL)
        grid.clear(columns=True)
        named = ["%Time", "Time", ""] if self.path else [column.value for column in WIDTHS]
        for heading, width in zip(named, widths, strict=True):
            text = self._mark(heading).rjust(width + 1)
            grid.add_column(Text(text), width=width + 1, key=heading)
        name = Column.NAME.value
        text = f" {self._mark(name)}"
        grid.add_column(Text(text), width=self._label_width + 1, key=name)

    def _mark(self, heading: str) -> str:
        """Show what the rows are sorted by."""
        if self.path or heading != self.sort.value:
            return heading
        return f"{'▲' if self.ascending else '▼'}{heading}"

    def show_all(self) -> None:
        """Draw what there is."""
        update = self._last
        if update is None:
            self._lines["who"].update(Text("waiting for V8"))
            return
        seconds = self.table.profile.meta.duration_ns / 1e9
        who = describe_who(update, self._rate_hz, f"{seconds:.0f} s")
        view = describe_view(self.table)
        if self.pattern is not None:
            view += f", /{self.pattern.pattern}/"
        if self.is_frozen:
            view += ", FROZEN"
        state = self.table.state()
        rows = self._edge_rows() if self.path else self._rows()
        hidden = len(rows) - _MAX_ROWS
        if hidden > 0:
            view += f", {hidden} more rows"
        for line, text in (
            ("who", who),
            ("vm", describe_vm(state)),
            ("loop", describe_loop(state)),
            ("account", describe_account(self.table)),
            ("view", view),
        ):
            self._lines[line].update(Text(text, no_wrap=True))
        self._show_rows(rows[:_MAX_ROWS])

    def _rows(self) -> list[tuple[int, list[Text]]]:
        rows = self.table.rows(self.sort, ascending=self.ascending, pattern=self.pattern)
        return [(row.key, self._cells(row)) for row in rows]

    def _cells(self, row: Row) -> list[Text]:
        cells = [
            Text(cell.rjust(width + 1))
            for cell, width in zip(format_numbers(row), WIDTHS.values(), strict=True)
        ]
        return [*cells, Text(f" {label(row, self._label_width)}", no_wrap=True)]

    def _edge_rows(self) -> list[tuple[int, list[Text]]]:
        """Return callers, the row itself and callees, the lightest callers first."""
        key = self.path[-1]
        found = self.table.neighbours(key)
        here = Edge(key, found.name, found.place, found.total_ns, 1.0)
        own = Edge(-1, "(itself)", "", found.own_ns, found.own_ns / max(found.total_ns, 1))
        return [
            *(self._edge(edge, "caller") for edge in reversed(found.callers)),
            self._edge(here, "this"),
            self._edge(own, "callee"),
            *(self._edge(edge, "callee") for edge in found.callees),
        ]

    def _edge(self, edge: Edge, role: str) -> tuple[int, list[Text]]:
        style = "bold" if role == "this" else ""
        row = Row(edge.key, edge.name, edge.place, 0, 0, 0, 0, 0)
        texts = [f"{edge.share:.1%}", format_time(edge.weight), role]
        cells = [
            Text(text.rjust(width + 1), style)
            for text, width in zip(texts, _EDGE_WIDTHS, strict=True)
        ]
        return edge.key, [*cells, Text(f" {label(row, self._label_width)}", style, no_wrap=True)]

    def _show_rows(self, rows: list[tuple[int, list[Text]]]) -> None:
        """Write into the rows that are there already, so that nothing flickers or scrolls."""
        grid = self.grid
        before = self.shown
        at = grid.cursor_row
        selected = before[at] if 0 < at < len(before) else None
        self.shown = [key for key, _ in rows]
        if grid.row_count > len(rows):
            grid.clear()
        for number, (_, cells) in enumerate(rows):
            if number >= grid.row_count:
                grid.add_row(*cells)
                continue
            for column, cell in enumerate(cells):
                grid.update_cell_at((number, column), cell)  # type: ignore[arg-type]  # a pair
        # At the top one watches what is hottest; elsewhere, the row that one went to.
        if selected is not None and selected in self.shown:
            grid.move_cursor(row=self.shown.index(selected), scroll=False)

    # Keys and mouse

    def action_help(self) -> None:
        """Say what the keys do."""
        self.push_screen(HelpScreen())

    def action_view(self, name: str) -> None:
        """Show other rows; the same again: functions."""
        view = View(name)
        self.table.view = View.FUNCTION if view is self.table.view else view
        self._show_top()

    def action_only_js(self) -> None:
        """Hide what is not JavaScript, or show it again."""
        self.table.only_js = not self.table.only_js
        self._show_top()

    def _show_top(self) -> None:
        """Begin again at the top of the table."""
        self.path.clear()
        self._change_rows()

    def _change_rows(self) -> None:
        """Show other rows."""
        self.shown = []
        self._make_columns()
        self.show_all()
        row = 0
        if self.path and self.path[-1] in self.shown:
            row = self.shown.index(self.path[-1])
        self.grid.move_cursor(row=row)

    def action_sort(self, number: int) -> None:
        """Sort by a column; by the same again, the other way round."""
        column = _COLUMNS[number]
        self.ascending = column is self.sort and not self.ascending
        self.sort = column
        self.path.clear()
        self._change_rows()

    def on_data_table_header_selected(self, event: DataTable.HeaderSelected) -> None:
        """Sort by the column whose heading was clicked."""
        if not self.path:
            self.action_sort(event.column_index)

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Look closer at a row."""
        if event.cursor_row >= len(self.shown):
            return
        key = self.shown[event.cursor_row]
        thread = self.table.thread_of(key)
        if thread is not None:
            self.table.view = View.FUNCTION
            self.table.thread = thread
        elif key >= 0 and (not self.path or key != self.path[-1]):
            self.path.append(key)
        self._change_rows()

    def action_leave(self) -> None:
        """Go back: to the row before, to no filter, to all threads."""
        if self.path:
            key = self.path.pop()
            self._change_rows()
            if not self.path and key in self.shown:
                self.grid.move_cursor(row=self.shown.index(key))
            return
        if self.pattern is not None:
            self._box.value = ""
            self.pattern = None
        else:
            self.table.thread = None
        self._change_rows()

    def action_freeze(self) -> None:
        """Stand still, or go on."""
        self.is_frozen = not self.is_frozen
        self.tick()
        self.show_all()

    def action_reset(self) -> None:
        """Forget what was."""
        self._take()
        self.table.reset()
        self._show_top()

    def action_save(self) -> None:
        """Write what was sampled since the last reset."""
        if not len(self.table.profile):
            self.notify("There are no samples yet.", severity="warning")
            return
        name, _, pid = self._file_stem.rpartition("-")
        path = default_file_name(name, int(pid), time.time(), Native.suffix)
        try:
            exporter = FileExporter(path)
            exporter.export(self.table.profile, Native())
        except (JsspyError, OSError) as err:  # OSError: the working directory is gone
            message = err.message if isinstance(err, JsspyError) else f"cannot write {path}: {err}"
            self.notify(message, severity="error", markup=False)
            return
        self.notify(f"Wrote {path}: {len(self.table.profile)} samples", markup=False)

    def action_filter(self) -> None:
        """Ask for a regular expression."""
        box = self._box
        if box.has_focus:
            box.insert_text_at_cursor("/")
            return
        if isinstance(self.screen, HelpScreen):
            self.pop_screen()
        box.display = True
        self.screen.set_focus(box)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while it is typed; what is no regular expression yet changes nothing."""
        try:
            pattern = re.compile(event.value, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError):
            event.input.add_class("wrong")
            return
        event.input.remove_class("wrong")
        self.pattern = pattern if event.value else None
        if self.path:
            self.path.clear()
            self._make_columns()
        self.shown = []
        self.show_all()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Go back to the rows."""
        del event
        self._leave_filter()

    def _leave_filter(self) -> None:
        self.screen.set_focus(self.grid)
        self._box.display = False
        self._box.remove_class("wrong")

    def on_key(self, event: Key) -> None:
        """Escape leaves the filter, and empties it."""
        box = self._box
        if event.key == "escape" and box.has_focus:
            event.stop()
            event.prevent_default()
            box.value = ""
            self._leave_filter()


def show_screen(
    receiver: Receiver,
    originals: OriginalNames,
    table: LiveTable,
    rate_hz: int,
    delay_s: float,
    file_stem: str,
    *,
    color: bool | None,
) -> None:
    """Draw until somebody quits, or nothing is left to see."""
    if color is False:
        os.environ["NO_COLOR"] = "1"
    TopApp(receiver, originals, table, rate_hz, delay_s, file_stem).run()
