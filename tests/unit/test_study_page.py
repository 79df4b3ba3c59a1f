"""Hold that the study's page takes what compare wrote, and nothing else."""

from scripts.study_page import PAGE, fill


def test_a_table_replaces_the_one_before_and_what_is_missing_stays(tmp_path):
    (tmp_path / "a.md").write_text("# Runs\n\n![](report/x.svg)\n\n| a |\n")
    page = "before\n<!-- a.md -->\nold\nlines\n<!-- end -->\nbetween\n<!-- b.md -->\nstays\n<!-- end -->\nafter"
    filled = fill(page, tmp_path)
    assert "### Runs" in filled and "| a |" in filled and "old" not in filled and "svg" not in filled
    assert "between\n<!-- b.md -->\nstays\n<!-- end -->\nafter" in filled
    assert fill(filled, tmp_path) == filled


def test_the_page_has_a_place_for_each_experiment():
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"<!-- runs/{name}/compare.md -->" in page for name in ("study", "clean", "ideas"))
