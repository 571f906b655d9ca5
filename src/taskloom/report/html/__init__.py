"""`taskloom report`: runs as one HTML page that needs nothing but itself.

`reading` turns folders into plain values and notes what is missing or damaged; `sections` draws them, one file a
section; `page` puts them together and writes the file.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {"Report": "taskloom.report.html.page", "write_report": "taskloom.report.html.page"}

__all__ = ["Report", "write_report"]

if TYPE_CHECKING:
    from taskloom.report.html.page import Report as Report
    from taskloom.report.html.page import write_report as write_report

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
