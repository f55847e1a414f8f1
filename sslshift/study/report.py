"""What a study leaves in its folder: files for programs, tables and figures for papers, and one page for people."""

from pathlib import Path

from sslshift.study.contents import all_tables
from sslshift.study.figures import draw_all
from sslshift.study.ledger import CSV
from sslshift.study.page import page
from sslshift.study.records import write_atomically
from sslshift.study.results import Results
from sslshift.study.tables import scores_csv


def write_results(results: Results) -> list[Path]:
    """Writes `scores.csv`, `report.html`, and all tables and figures below `tables` and `figures`.

    The results table is written while the study runs; the page holds it too.

    Args:
      results: of the study, finished or not.

    Returns:
      The files that a person opens first, and the two folders.
    """
    out = Path(results.opened.study.out)
    write_atomically(out / "scores.csv", scores_csv(results))
    files = {name: (out / name).read_text(encoding="utf-8") for name in (CSV, "scores.csv") if (out / name).exists()}
    (out / "tables").mkdir(parents=True, exist_ok=True)
    for table in all_tables(results):
        for ending, text in {"md": table.markdown, "tex": table.latex, "csv": table.csv}.items():
            write_atomically(out / "tables" / f"{table.name}.{ending}", text)
    figures, _ = draw_all(results, out / "figures")
    write_atomically(out / "report.html", page(results, figures, files))
    return [out / name for name in (CSV, "scores.csv", "tables", "figures", "report.html")]
