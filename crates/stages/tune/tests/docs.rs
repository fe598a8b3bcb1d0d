//! The table of tasks in `docs/tune.md` is made from the list; `CUPOLA_WRITE_DOCS=1` writes it.

#[test]
fn the_table_is_that_of_the_list() {
    let row = |task: &&dyn cupola_tune::task::TuneTask| format!("| `{}` | {} |\n", task.name(), task.about());
    let rows: String = cupola_tune::task::ALL.iter().map(row).collect();
    cupola_testkit::check_tables("tune.md", &[("tasks", format!("| task | what is learned |\n|---|---|\n{rows}"))]);
}
